"""What layers read, at some positions: the same as torch's own windows."""

import pytest
import torch
from morphisms.helpers import generator
from torch.nn.functional import unfold

from lightning_lemonade.graph import Conv2d, Linear
from lightning_lemonade.morphisms.patches import FEWEST_ROWS, Patches, Split, chunks, sample_rows

torch.set_num_threads(1)
ALL = slice(None)


@pytest.mark.parametrize(
    "op",
    [
        Conv2d(4, (3, 3), padding=(1, 1)),
        Conv2d(4, (3, 2), (2, 1), (1, 0), (1, 2)),
        Conv2d(4, (1, 1), (2, 2)),
        Conv2d(4, (5, 3), (1, 3), (4, 2)),
        Conv2d(4, (2, 2), (2, 2), (1, 1), (3, 1)),
    ],
    ids=str,
)
def test_windows_are_those_of_unfold(op: Conv2d) -> None:
    x = torch.randn(5, 3, 9, 8, generator=generator(), dtype=torch.float64)
    shape = op.output_shape([(3, 9, 8)])
    rows = sample_rows(shape, 27, Split.of(5), generator())
    expected = unfold(x, op.kernel_size, op.dilation, op.padding, op.stride).unflatten(2, shape[1:]).unflatten(1, (3, -1))
    taken = Patches(x, op).take(rows, ALL)
    assert taken.equal(expected[rows.sample, :, :, rows.y, rows.x])
    assert Patches(x, op).take(rows, slice(2, 7), slice(1, 3)).equal(taken[2:7, 1:3])


def test_features_of_a_linear_layer() -> None:
    x = torch.randn(6, 7, generator=generator())
    rows = sample_rows((4,), 7, Split.of(6), generator())
    assert Patches(x, Linear(4)).take(rows, ALL).equal(x[rows.sample, :, None].double())
    assert rows.of(x).equal(x[rows.sample])


@pytest.mark.parametrize(("size", "held"), [(2, [1]), (3, [2]), (4, [3]), (8, [3, 7]), (10, [3, 7])])
def test_a_quarter_is_held_out(size: int, held: list[int]) -> None:
    split = Split.of(size)
    assert split.held.tolist() == held
    assert sorted([*split.fit.tolist(), *held]) == list(range(size))


def test_rows_are_few_distinct_and_repeatable() -> None:
    split = Split.of(64)
    rows, again = (sample_rows((8, 32, 32), 72, split, generator(3)) for _ in range(2))
    assert rows.fitted == FEWEST_ROWS
    assert len(rows) == FEWEST_ROWS * 5 // 4
    assert len({*zip(rows.sample.tolist(), rows.y.tolist(), rows.x.tolist(), strict=True)}) == len(rows)
    assert not set(rows.sample[: rows.fitted].tolist()) & set(split.held.tolist())
    assert set(rows.sample[rows.fitted :].tolist()) <= set(split.held.tolist())
    assert all(getattr(rows, name).equal(getattr(again, name)) for name in ("sample", "y", "x"))


def test_chunks_cover_a_range() -> None:
    parts = chunks(3, 1000, 10_000)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(3, 1000))
    assert max(part.stop - part.start for part in parts) * 10_000 <= 1 << 19
