"""Which channels can be spared: backward elimination by what the layers that read them could no longer reconstruct. Source: ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Conv2d, GraphSpec, Linear
from lightning_lemonade.graph.channels import Segment
from lightning_lemonade.morphisms.patches import Patches, Rows, chunks
from lightning_lemonade.morphisms.ridge import RIDGE, STRONGER, centre, moments
from lightning_lemonade.morphisms.solve import importance, norm_behind
from lightning_lemonade.morphisms.state import State

MOST_UNKNOWNS = 1152
"""Readers with more unknowns for each output, or with fewer than two rows for each unknown, are judged by a Gram matrix of their channels
alone, which all taps (and positions before a Flatten) share."""


@dataclass
class Reader:
    """A layer that reads channels which may go. Its inverse Gram matrix and its least-squares weights W follow each removal.

    Attributes:
        inverse: (unknowns, unknowns).
        energy: (unknowns, unknowns): W W', summed over the outputs by their importance; W itself isn't needed.
        unknowns: for each group of channels, those of each channel: (channels, unknowns of one).
    """

    inverse: Tensor
    energy: Tensor
    unknowns: Mapping[int, Tensor]

    def losses(self, group: int, channels: Tensor) -> Tensor:
        """Returns what can't be reconstructed without each of some channels: (channels,)."""
        index = self.unknowns[group][channels]
        places = index[:, :, None], index[:, None, :]
        shares = torch.linalg.solve(self.inverse[places], self.energy[places])
        losses: Tensor = shares.diagonal(dim1=1, dim2=2).sum(1)
        return losses

    def remove(self, group: int, channel: int) -> None:
        """Takes a channel out: the rest takes over what it can (a downdate of the inverse)."""
        index = self.unknowns[group][channel]
        columns = self.inverse[:, index]
        gain = torch.linalg.solve(self.inverse[index][:, index], columns.T)
        self.energy.addmm_(gain.T, self.energy[index], alpha=-1)
        self.energy.addmm_(self.energy[:, index], gain, alpha=-1)
        self.inverse.addmm_(columns, gain, alpha=-1)


def eliminated(readers: Sequence[Reader], sizes: Mapping[int, tuple[int, int]]) -> dict[int, Tensor]:
    """Removes one channel after the other, each time the one that costs least.

    Args:
        readers: changed in place.
        sizes: for each group, how many channels it has and how many are to stay.

    Returns:
        For each group the channels that stay, ascending.
    """
    kept = {}
    for group, (size, stay) in sizes.items():
        concerned = [reader for reader in readers if group in reader.unknowns]
        alive = torch.arange(size)
        while len(alive) > stay:
            losses = sum((reader.losses(group, alive).cpu() for reader in concerned), torch.zeros(len(alive), dtype=torch.float64))
            worst = int(losses.argmin())
            for reader in concerned:
                reader.remove(group, int(alive[worst]))
            alive = torch.cat([alive[:worst], alive[worst + 1 :]])
        kept[group] = alive
    return kept


class ReaderMaker:
    """Makes a `Reader` of a layer in the parent's pass.

    Args:
        spec: the parent.
        state: its weights.
        node_id: a convolution with one group or a linear layer.
        groups: the channel groups that are to shrink.
    """

    def __init__(self, spec: GraphSpec, state: State, node_id: str, groups: Sequence[int]) -> None:
        self.spec, self.state, self.node_id, self.groups = spec, state, node_id, groups
        self.made: Reader | None = None

    def __call__(self, patches: Patches, rows: Rows) -> None:
        """Looks at the layer's inputs."""
        weight = self.state[f"{self.node_id}.weight"]
        outputs, features, taps = len(weight), patches.channels, patches.taps
        repeats = {segment.repeat for segment in self._segments()}
        spread = repeats.pop() if len(repeats) == 1 else 1
        shared = (features * taps > MOST_UNKNOWNS or rows.fitted < 2 * features * taps) and spread * taps > 1
        times = spread * taps if shared else 1  # unknowns that share one row and column of the Gram matrix
        gram = _Shared(patches, spread).gram(rows) if shared else centred_gram(patches, rows)
        unknowns = weight.reshape(outputs, -1, times).permute(1, 2, 0).flatten(1).double()  # (unknowns, times * outputs)
        unknowns = unknowns * self._scale(gram, unknowns, outputs).repeat(times)
        energy = unknowns @ unknowns.T
        self.made = Reader(_inverse(gram), energy, {g: self._unknowns(g, shared, taps) for g in self.groups})

    def _segments(self) -> Sequence[Segment]:
        """Returns the segments of what the layer reads."""
        return self.spec.channels.segments[self.spec[self.node_id].inputs[0]]

    def _scale(self, gram: Tensor, unknowns: Tensor, outputs: int) -> Tensor:
        """Returns the weight of each output's error: what a batch norm multiplies it by; without one, one over the outputs' deviation.

        Args:
            gram: (unknowns, unknowns), centred.
            unknowns: (unknowns, times * outputs).
            outputs: how many there are.
        """
        if norm_behind(self.spec, self.node_id) is not None:
            return importance(self.spec, self.state, self.node_id).double()
        energy = ((gram @ unknowns) * unknowns).sum() / outputs
        return torch.where(energy > 0, energy.rsqrt(), 1.0).expand(outputs)

    def _unknowns(self, group: int, shared: bool, taps: int) -> Tensor:
        """Returns which unknowns belong to each channel of a group: (channels, unknowns of one)."""
        parts, start, size = [], 0, self.spec.channels.groups[group].size
        each = 1 if shared else taps
        for segment in self._segments():
            count = (1 if shared else segment.repeat) * each
            if segment.group == group:
                parts.append(start + torch.arange(size * count).reshape(size, count))
            start += segment.size * count
        return torch.cat(parts, 1) if parts else torch.zeros((size, 0), dtype=torch.int64)


def centred_gram(patches: Patches, rows: Rows) -> Tensor:
    """Returns the Gram matrix of what a layer reads, less its mean: (columns, columns)."""
    gram, _, sums = moments(patches, rows, patches.x.new_zeros((len(rows), 0), dtype=torch.float64))
    centre(gram, sums, rows.fitted)
    return gram[0]


@dataclass(frozen=True)
class _Shared:
    """The same windows with each tap, and each position before a Flatten, as a row of its own.

    Attributes:
        patches: the windows.
        spread: features for each channel.
    """

    patches: Patches
    spread: int

    def gram(self, rows: Rows) -> Tensor:
        """Returns the Gram matrix of channels, centred: (channels, channels)."""
        channels = self.patches.channels // self.spread
        gram, sums, count = torch.zeros(()), torch.zeros(()), 0
        for part in chunks(0, rows.fitted, self.patches.channels * self.patches.taps):
            values = self.patches.take(rows, part)
            flat = values.reshape(len(values), channels, -1).transpose(1, 2).reshape(-1, channels)
            gram, sums, count = gram.to(flat) + flat.T @ flat, sums.to(flat) + flat.sum(0, keepdim=True), count + len(flat)
        centre(gram, sums, count)
        return gram


def _inverse(gram: Tensor) -> Tensor:
    """Inverts a Gram matrix with a ridge, as `ridge_change` has it.

    Raises:
        MutationError: if it holds values that aren't finite.
    """
    strength = RIDGE * gram.diagonal().mean()
    added = torch.where(strength > 0, strength, 1.0)
    gram.diagonal().add_(added)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:  # by rounding, where inputs hardly vary about a large mean
        gram.diagonal().add_(added * (STRONGER - 1))
        factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise MutationError(
            "which filters to keep can't be told: the network's values on the calibration batch are too large or not finite"
        )
    return torch.cholesky_inverse(factor)


def keeps_readable(spec: GraphSpec, node_id: str) -> bool:
    """Returns whether a layer's unknowns can be solved for channel by channel: all but grouped convolutions."""
    op = spec[node_id].op
    return isinstance(op, Linear) or (isinstance(op, Conv2d) and op.groups == 1)
