import pytest
import torch

from lightning_lemonade.batches import unpack
from lightning_lemonade.errors import DataError

X, Y = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("batch", "batch_format"),
    [
        ((X, Y), None),
        ([X, Y], None),
        ({"image": X, "label": Y}, None),
        ({"pixel_values": X, "labels": Y, "name": ["a", "b", "c"]}, None),
        ({"left": X, "right": X, "class": Y}, ("left", "class")),
        ((Y, "name", X), (2, 0)),
        ((X, X, Y), (0, -1)),
        ({"scene": {"x": X}, "y": Y}, lambda batch: (batch["scene"]["x"], batch["y"])),
    ],
)
def test_samples_and_targets_are_found(batch, batch_format):
    x, y = unpack(batch, batch_format)
    assert x is X
    assert y.dtype == torch.int64
    assert y.tolist() == [0, 1, 1]


def test_targets_that_are_no_whole_numbers_stay_as_they_are():
    y = torch.rand(3, dtype=torch.float64)
    assert unpack((X, y))[1] is y


@pytest.mark.parametrize(
    ("batch", "batch_format", "said"),
    [
        ((X, Y, Y), None, "a tuple of Tensor, Tensor, Tensor"),
        ([X], None, "a list of Tensor"),
        ((X, 3), None, "a tuple of Tensor, int"),
        (X, None, "a Tensor"),
        ({"image": X, "label": Y, "target": Y}, None, "image, label, target"),
        ({"image": X, "label": Y}, ("image", "mask"), "image, label"),
        ((X, Y), (0, 2), "a tuple"),
        ((X, Y), ("image", "label"), "a tuple"),
    ],
)
def test_what_is_not_found_is_told_with_what_there_is(batch, batch_format, said):
    with pytest.raises(DataError, match="batch_format") as caught:
        unpack(batch, batch_format)
    assert said in str(caught.value)
