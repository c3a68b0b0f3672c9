import pytest
import torch

from lightning_lemonade.batches import check_format, unpack
from lightning_lemonade.errors import ConfigurationError, DataError

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
    y = torch.rand(3, 2, dtype=torch.float64)
    assert unpack((X, y))[1] is y


def test_one_value_for_each_sample_gets_the_shape_of_an_output():
    assert torch.equal(unpack((X, torch.arange(3.0)))[1], torch.tensor([[0.0], [1.0], [2.0]]))


@pytest.mark.parametrize("batch_format", [lambda batch: batch["x"], lambda batch: (batch, batch, batch), lambda batch: 1 / 0 * batch[9]])
def test_what_a_users_function_cannot_read_is_told(batch_format):
    with pytest.raises((DataError, ZeroDivisionError), match=r"batch_format|zero"):
        unpack((X, Y), batch_format)


@pytest.mark.parametrize("batch_format", [("picture",), "image", 3, (1.5, 2)])
def test_a_format_that_is_none_is_refused(batch_format):
    with pytest.raises(ConfigurationError, match="batch_format"):
        check_format(batch_format)


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
