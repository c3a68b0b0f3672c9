"""What a layer reads at a few of its output's positions, as rows of a linear regression."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Generator, Tensor

from lightning_lemonade.graph import Conv2d, Linear
from lightning_lemonade.graph.ops import Shape

FEWEST_ROWS, MOST_ROWS, ROWS_PER_COLUMN = 4096, 8192, 3
"""A regression sees three rows for each unknown of an output, but never fewer than the first and more than the second number (if there are
so many). Source: ours."""
CHUNK = 1 << 19
"""Most numbers that are gathered at once."""


@dataclass(frozen=True)
class Split:
    """Which calibration samples are fitted to, and which are held out to judge the fit: every fourth, or the last of two or three.

    Attributes:
        fit: (samples,) indices.
        held: (samples,) indices.
    """

    fit: Tensor
    held: Tensor

    @classmethod
    def of(cls, size: int) -> "Split":
        """Splits a batch of two or more samples."""
        index = torch.arange(size)
        held = index % 4 == 3 if size > 3 else index == size - 1
        return cls(index[~held], index[held])


@dataclass(frozen=True)
class Rows:
    """Positions of a layer's output over a batch; the first `fitted` are of samples that are fitted to, the rest are held out.

    Attributes:
        sample, y, x: (rows,) indices; height and width are zero for vectors.
        fitted: how many are fitted to.
    """

    sample: Tensor
    y: Tensor
    x: Tensor
    fitted: int

    def __len__(self) -> int:
        """Returns the number of positions."""
        return len(self.sample)

    def of(self, values: Tensor) -> Tensor:
        """Returns a layer's outputs at these positions: (rows, channels), from (batch, channels, ...)."""
        return values[self.sample] if values.ndim == 2 else values[self.sample, :, self.y, self.x]


def sample_rows(shape: Shape, columns: int, split: Split, generator: Generator) -> Rows:
    """Draws positions of a layer's output without repetition; all of them if they are few.

    Args:
        shape: the output's, of one sample: (channels,) or (channels, height, width).
        columns: unknowns of one output channel.
        split: which samples are fitted to, and which are held out.
        generator: a CPU generator.
    """
    limit = max(FEWEST_ROWS, min(MOST_ROWS, ROWS_PER_COLUMN * columns))
    positions, width = prod(shape[1:]), shape[2] if len(shape) == 3 else 1
    parts = []
    for samples, most in ((split.fit, limit), (split.held, limit // 4)):
        total = len(samples) * positions
        flat = torch.arange(total) if total <= most else torch.randperm(total, generator=generator)[:most].sort().values
        parts.append((samples[flat // positions], flat % positions))
    sample, position = (torch.cat(column) for column in zip(*parts, strict=True))
    return Rows(sample, position // width, position % width, len(parts[0][0]))


class Patches:
    """The windows that a layer's filters see, taken at some positions only, without unfolding or padding the whole input.

    Args:
        x: what the layer reads: (batch, channels, height, width), or (batch, features).
        op: the layer.
    """

    def __init__(self, x: Tensor, op: Conv2d | Linear) -> None:
        self.x, self.op = x, op
        self.channels = x.shape[1]
        self.taps = 1 if isinstance(op, Linear) else prod(op.kernel_size)

    def take(self, rows: Rows, part: slice, channels: slice = slice(None)) -> Tensor:
        """Returns windows in double precision: (rows of the part, channels, taps)."""
        x, sample = self.x[:, channels], rows.sample[part]
        if isinstance(self.op, Linear):
            return x[sample].double()[:, :, None]
        y, inside_y = self._steps(rows.y[part], 0)
        across, inside_x = self._steps(rows.x[part], 1)
        taken = x[sample[:, None, None], :, y[:, :, None], across[:, None, :]].double()  # (rows, height, width, channels)
        if max(self.op.padding):
            taken *= (inside_y[:, :, None] & inside_x[:, None, :]).to(taken.device)[..., None]
        return taken.flatten(1, 2).mT

    def _steps(self, position: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Returns where a window's taps lie along one side, moved into the image (rows, taps), and whether they did."""
        assert isinstance(self.op, Conv2d)
        taps = torch.arange(self.op.kernel_size[side]) * self.op.dilation[side] - self.op.padding[side]
        place = position[:, None] * self.op.stride[side] + taps
        moved = place.clamp(0, self.x.shape[2 + side] - 1)
        return moved, moved == place


def chunks(begin: int, end: int, columns: int) -> list[slice]:
    """Cuts a range of rows so that no piece holds more than `CHUNK` numbers."""
    step = max(1, CHUNK // columns)
    return [slice(start, min(start + step, end)) for start in range(begin, end, step)]
