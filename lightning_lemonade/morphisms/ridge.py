"""Ridge regression of a layer's outputs on what it reads, shrinking towards the weights that it has. Source: ours."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_lemonade.morphisms.patches import Patches, Rows, chunks

RIDGE = 1e-3
"""Relative to the mean of the Gram matrix's diagonal."""
STRONGER = 1e3
"""How many times the ridge where the system can't be solved with it."""
STEPS = 4
"""How often the ridge regression is repeated from its own result (iterated Tikhonov): directions that the data shows well are solved
exactly, whereas duplicated and dead channels stay where they are."""
ROUNDING = 1e-12
"""What a centred Gram matrix may have lost to rounding, relative to the mean of its diagonal before."""
MOST_COLUMNS = 1152
"""Larger systems are solved in blocks of this many unknowns for each output, one after the other, so that memory stays bounded."""


def ridge_change(gram: Tensor, cross: Tensor) -> Tensor:
    """Returns the change of weights that explains a residual, where change is penalised.

    Args:
        gram: (..., columns, columns), changed in place.
        cross: (..., columns, outputs): the inputs' products with the residual.

    Returns:
        (..., columns, outputs); zeros where the inputs are all zero, and everywhere if they aren't finite.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    strength = RIDGE * diagonal.mean(-1, keepdim=True)
    added = torch.where(strength > 0, strength, 1.0).expand_as(diagonal).clone()
    diagonal += added
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed.any():  # by rounding, where inputs hardly vary about a large mean
        more = added * (STRONGER - 1) * (failed > 0)[..., None]
        diagonal += more
        added += more
        factor, failed = torch.linalg.cholesky_ex(gram)
    change = torch.zeros_like(cross)
    if failed.any():
        return change
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
    rows, groups, outputs = problem.rows, problem.groups, len(problem.weight)
    if problem.patches.channels * problem.patches.taps * outputs // groups != problem.weight.numel():
        raise ValueError(f"a weight of {tuple(problem.weight.shape)} doesn't fit {problem.patches.channels} channels")
    weight = problem.weight.to(torch.float64, copy=True).reshape(groups, outputs // groups, -1).mT
    residual = problem.target.to(torch.float64, copy=True)
    if problem.bias is not None:
        residual -= problem.bias.double()
    energy = residual[: rows.fitted].square().sum()
    _subtract(problem, residual, weight, slice(None))
    eps = 10 * torch.finfo(problem.weight.dtype).eps
    if not residual[: rows.fitted].square().sum() > eps**2 * energy:
        return None
    before = _held_error(problem, residual)
    blocks = _blocks(problem)
    for channels, columns in blocks if len(blocks) == 1 else 2 * blocks:
        change = _solved(problem, residual, channels)
        weight[:, columns] += change
        _subtract(problem, residual, change, channels)
    shift = residual[: rows.fitted].mean(0) if problem.free_mean else residual.new_zeros(outputs)
    residual -= shift
    if not _held_error(problem, residual) < before:
        return None
    return weight.mT.reshape(problem.weight.shape).to(problem.weight.dtype).contiguous(), shift.to(problem.weight.dtype)


def _held_error(problem: Problem, residual: Tensor) -> Tensor:
    """Returns the weighted squared error on the rows that are held out."""
    return (residual[problem.rows.fitted :] * problem.importance.double()).square().sum()


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


def _subtract(problem: Problem, residual: Tensor, weight: Tensor, channels: slice) -> None:
    """Takes off a residual (rows, outputs), in place, what some channels make with weights (groups, columns, outputs of a group)."""
    for part in chunks(0, len(problem.rows), weight.shape[0] * weight.shape[1]):
        made = grouped(problem.patches.take(problem.rows, part, channels), problem.groups) @ weight
        residual[part] -= made.transpose(0, 1).flatten(1)


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
