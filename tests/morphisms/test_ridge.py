"""Ridge regression of a layer's outputs."""

import pytest
import torch
from morphisms.helpers import generator
from torch import Tensor
from torch.nn.functional import conv2d

from lightning_lemonade.graph import Conv2d
from lightning_lemonade.morphisms import ridge
from lightning_lemonade.morphisms.patches import Patches, Split, sample_rows
from lightning_lemonade.morphisms.ridge import Problem, refit, ridge_change

torch.set_num_threads(1)


def problem(weight: Tensor, wanted: Tensor, groups: int = 1, bias: Tensor | None = None, *, shift: float = 0.0, size: int = 40) -> Problem:
    """A layer with some weights, whose outputs should be those with others, and shifted."""
    op = Conv2d(len(weight), (3, 3), padding=(1, 1), groups=groups)
    x = torch.randn(size, weight.shape[1] * groups, 6, 6, generator=generator(1), dtype=weight.dtype)
    rows = sample_rows((len(weight), 6, 6), weight[0].numel(), Split.of(size), generator())
    target = rows.of(conv2d(x, wanted, padding=1, groups=groups) + shift)
    return Problem(Patches(x, op), rows, target, weight, bias, groups, torch.ones(len(weight)), free_mean=bias is not None)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_that_the_data_tells_are_found(groups: int, dtype: torch.dtype) -> None:
    draws = generator()
    weight, wanted = torch.randn(2, 4, 4 // groups, 3, 3, generator=draws, dtype=dtype)
    before = weight.clone()
    found = refit(problem(weight, wanted, groups, torch.full((4,), 0.5, dtype=dtype), shift=2.0))
    assert found is not None
    new, shift = found
    assert (new.dtype, shift.dtype) == (dtype, dtype)
    assert torch.allclose(new, wanted, atol=1e-6)
    assert torch.allclose(shift, torch.full((4,), 1.5, dtype=dtype), atol=1e-6)
    assert weight.equal(before)


def test_what_fits_already_stays() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=generator(), dtype=torch.float64)
    assert refit(problem(weight, weight)) is None
    assert refit(problem(weight.float(), weight.float())) is None


def test_blocks_of_unknowns_come_close_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, wanted = torch.randn(2, 4, 6, 3, 3, generator=generator(), dtype=torch.float64)
    monkeypatch.setattr(ridge, "MOST_COLUMNS", 20)
    found = refit(problem(weight, wanted, size=200))
    assert found is not None
    assert (found[0] - wanted).norm() < 0.01 * (weight - wanted).norm()


def test_a_fit_to_noise_is_given_up() -> None:
    """Held-out rows show no gain where there is nothing to learn."""
    case = problem(torch.zeros(4, 8, 3, 3, dtype=torch.float64), torch.zeros(4, 8, 3, 3, dtype=torch.float64), size=4)
    noise = torch.randn(case.target.shape, generator=generator(5), dtype=torch.float64)
    assert refit(Problem(**{**vars(case), "target": noise})) is None


def test_doubled_and_dead_columns() -> None:
    x = torch.randn(50, 4, generator=generator(), dtype=torch.float64)
    x[:, 1], x[:, 3] = x[:, 0], 0
    residual = x @ torch.tensor([[1.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    change = ridge_change(x.T @ x, x.T @ residual)
    assert torch.allclose(x @ change, residual, atol=1e-6)
    assert torch.allclose(change[0], change[1])
    assert change[3] == 0
    assert not ridge_change(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)).any()


def test_a_weight_of_another_shape_is_refused() -> None:
    case = problem(torch.zeros(4, 3, 3, 3), torch.zeros(4, 3, 3, 3))
    with pytest.raises(ValueError, match="doesn't fit 3 channels"):
        refit(Problem(**{**vars(case), "weight": torch.zeros(4, 2, 3, 3)}))


def test_a_system_that_rounding_has_left_negative_is_solved_with_more_ridge() -> None:
    gram = torch.eye(3, dtype=torch.float64)
    gram[0, 0] = -0.01
    cross = torch.ones(3, 2, dtype=torch.float64)
    change = ridge_change(torch.stack([gram, torch.eye(3, dtype=torch.float64)]), torch.stack([cross, cross]))
    assert change.isfinite().all()
    torch.testing.assert_close(change[1], cross, rtol=0.01, atol=0)  # the other system of the batch has its own ridge


def test_inputs_that_are_not_finite_change_nothing() -> None:
    gram = torch.full((2, 2), torch.nan, dtype=torch.float64)
    assert not ridge_change(gram, torch.ones(2, 1, dtype=torch.float64)).any()
