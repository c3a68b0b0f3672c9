"""Ridge regression of a layer's outputs on what it reads, shrinking towards the weights that it has. Source: ours."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_lemonade.morphisms.patches import Patches, Rows, chunks

RIDGE = 1e-3
"""Relative to the mean of the Gram matrix's diagonal."""
STEPS = 4
"""How often the ridge regression is repeated from its own result (iterated Tikhonov): directions that the data shows well are solved
exactly, whereas duplicated and dead channels stay where they are."""
ROUNDING = 1e-12
"""What a centred Gram matrix may have lost to rounding, relative to the mean of its diagonal before."""
MOST_COLUMNS = 2304
"""Larger systems are solved in blocks of this many unknowns for each output, one after the other, so that memory stays bounded."""


def ridge_change(gram: Tensor, cross: Tensor) -> Tensor:
    """Returns the change of weights that explains a residual, where change is penalised.

    Args:
        gram: (..., columns, columns), changed in place.
        cross: (..., columns, outputs): the inputs' products with the residual.

    Returns:
        (..., columns, outputs); zeros where the inputs are all zero.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    strength = RIDGE * diagonal.mean(-1, keepdim=True)
    added = torch.where(strength > 0, strength, 1.0).expand_as(diagonal).clone()
    diagonal += added
    factor = torch.linalg.cholesky(gram)
    change = torch.zeros_like(cross)
    for step in range(STEPS):  # (G + l) d' = c + l d
        right = cross + added[..., None] * change if step else cross
        change = torch.cholesky_solve(right, factor)
    return change


@dataclass(frozen=True)
class Problem:
    """One layer to refit.

    Attributes:
        patches: what it reads.
        rows: at which positions.
        target: (rows, outputs): what it should put out there.
        weight: (outputs, inputs / groups, ...): its weights so far.
        bias: (outputs,), or None.
        groups: of the convolution.
        importance: (outputs,): the weight of an output's error when the fit is judged.
        free_mean: whether the outputs' mean is free, since a bias or a batch norm takes it up.
    """

    patches: Patches
    rows: Rows
    target: Tensor
    weight: Tensor
    bias: Tensor | None
    groups: int
    importance: Tensor
    free_mean: bool


def refit(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Solves for a layer's weights.

    Returns:
        The new weight, in the old one's shape and precision, and what the outputs have to be shifted by (outputs,). None if there is
        nothing to correct, or the held-out rows show no gain.
    """
    rows, groups = problem.rows, problem.groups
    outputs = len(problem.weight)
    old = problem.weight.double().reshape(groups, outputs // groups, -1).mT
    if problem.patches.channels * problem.patches.taps // groups != old.shape[1]:
        raise ValueError(f"a weight of {tuple(problem.weight.shape)} doesn't fit {problem.patches.channels} channels")
    target = problem.target.double()
    residual = target - (0 if problem.bias is None else problem.bias.double())
    before = _subtracted(problem, residual, old, slice(None))
    eps = 10 * torch.finfo(problem.weight.dtype).eps
    if not before[: rows.fitted].square().sum() > eps**2 * target[: rows.fitted].square().sum():
        return None
    new, after = old.clone(), before
    for _ in range(1 if len(_blocks(problem)) == 1 else 2):
        for channels, columns in _blocks(problem):
            change = _solved(problem, after, channels)
            new[:, columns] += change
            after = _subtracted(problem, after, change, channels)
    shift = after[: rows.fitted].mean(0) if problem.free_mean else after.new_zeros(outputs)
    held = slice(rows.fitted, None)
    errors = [(error.square() * problem.importance.double().square()).sum() for error in (before[held], after[held] - shift)]
    if not errors[1] < errors[0]:
        return None
    weight = new.mT.reshape(problem.weight.shape).to(problem.weight.dtype)
    return weight.contiguous(), shift.to(problem.weight.dtype)


def _blocks(problem: Problem) -> list[tuple[slice, slice]]:
    """Returns the channels, and the columns, of each block of unknowns."""
    channels, taps = problem.patches.channels, problem.patches.taps
    if problem.groups > 1 or channels * taps <= MOST_COLUMNS:
        return [(slice(None), slice(None))]
    step = max(1, MOST_COLUMNS // taps)
    return [(slice(c, c + step), slice(c * taps, (c + step) * taps)) for c in range(0, channels, step)]


def grouped(windows: Tensor, groups: int) -> Tensor:
    """Returns windows (rows, channels, taps) as (groups, rows, columns of a group)."""
    return windows.reshape(len(windows), groups, -1).transpose(0, 1)


def _subtracted(problem: Problem, residual: Tensor, weight: Tensor, channels: slice) -> Tensor:
    """Returns a residual (rows, outputs) less what some channels contribute with weights (groups, columns, outputs of a group)."""
    left = torch.empty_like(residual)
    for part in chunks(0, len(problem.rows), weight.shape[0] * weight.shape[1]):
        made = grouped(problem.patches.take(problem.rows, part, channels), problem.groups) @ weight
        left[part] = residual[part] - made.transpose(0, 1).flatten(1)
    return left


def _solved(problem: Problem, residual: Tensor, channels: slice) -> Tensor:
    """Returns the change of weights (groups, columns, outputs of a group) that explains a residual."""
    gram, cross, sums = moments(problem.patches, problem.rows, residual, problem.groups, channels)
    if problem.free_mean:
        cross -= sums.mT @ grouped(residual[: problem.rows.fitted].mean(0)[None, :, None], problem.groups)
        centre(gram, sums, problem.rows.fitted)
    return ridge_change(gram, cross)


def centre(gram: Tensor, sums: Tensor, count: int) -> None:
    """Takes the mean out of a Gram matrix, and adds what rounding may have taken off its diagonal where inputs hardly vary.

    Args:
        gram: (..., columns, columns), changed in place.
        sums: (..., 1, columns): the inputs' sums.
        count: how many rows they are sums of.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    lost = ROUNDING * diagonal.mean(-1, keepdim=True)
    gram -= sums.mT @ sums / count
    diagonal += lost


def moments(patches: Patches, rows: Rows, values: Tensor, groups: int = 1, channels: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """Sums products over the fitted rows.

    Args:
        patches: the inputs.
        rows: where.
        values: (rows, outputs).
        groups: groups of channels and outputs, each by itself.
        channels: which of the inputs.

    Returns:
        Gram matrix (groups, columns, columns), products with the values (groups, columns, outputs of a group), sums (groups, 1, columns).
    """
    gram = cross = sums = torch.zeros(())
    width = len(range(*channels.indices(patches.channels))) * patches.taps
    for part in chunks(0, rows.fitted, width):
        windows = grouped(patches.take(rows, part, channels), groups)
        right = grouped(values[part][..., None], groups)
        if gram.ndim == 0:
            gram, cross, sums = windows.mT @ windows, windows.mT @ right, windows.sum(1, keepdim=True)
        else:
            gram.baddbmm_(windows.mT, windows)
            cross.baddbmm_(windows.mT, right)
            sums += windows.sum(1, keepdim=True)
    return gram, cross, sums
