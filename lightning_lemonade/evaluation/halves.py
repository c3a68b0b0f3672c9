"""Half of each batch at a time, for a child that needs too much memory for the whole."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_lemonade.errors import DataError
from lightning_lemonade.module import LemonadeModule

SMALLEST = 4
"""Batches of so many samples are halved. Of fewer, one half could be a single sample, with which batch norms can't train."""


def halve(module: LemonadeModule) -> None:
    """Makes a module train and validate with half of each batch at a time, which takes less memory.

    A training step still gives the loss of its whole batch and that loss's gradients, as far as losses are means over samples (batch norms
    see the halves). The halves are made inside the steps, not by the loader: Lightning counts, transfers and augments whole batches as
    before, so that steps, schedules, accumulated batches and every user's loader stay what they are.

    Values that a user's step logs by itself count both halves alike, though one has a sample more where their number is odd.

    Args:
        module: with automatic optimisation; changed in place.
    """
    module.training_step = _halved_training(module)  # type: ignore[method-assign]
    module.validation_step = _halved_validation(module)  # type: ignore[method-assign]


def halves(batch: Any, size: int) -> list[Any]:  # noqa: ANN401 (whatever a loader yields)
    """Returns the two halves of a batch; the first has a sample more if their number is odd.

    Halved are tensors, lists and tuples that have an entry for each sample, wherever they are in the batch; all else is in both halves.

    Args:
        batch: a tensor, or tensors in lists, tuples and dicts.
        size: how many samples it has.
    """
    middle = (size + 1) // 2
    return [_samples(batch, size, where) for where in (slice(middle), slice(middle, None))]


def first_of(batch: Any, size: int, count: int) -> Any:  # noqa: ANN401
    """Returns a batch of the first samples of another one; see `halves`.

    Args:
        batch: the whole.
        size: how many samples it has.
        count: how many are wanted.
    """
    return _samples(batch, size, slice(count))


def _samples(batch: Any, size: int, where: slice) -> Any:  # noqa: ANN401
    def by_sample(part: object) -> bool:
        if isinstance(part, Tensor):
            return part.shape[:1] == (size,)
        # a list of `size` tensors of all samples is a list of tensors, not of samples
        return isinstance(part, list | tuple) and len(part) == size and not any(isinstance(one, Tensor) and by_sample(one) for one in part)

    return tree_map(lambda part: part[where] if by_sample(part) else part, batch, is_leaf=by_sample)


def _halved_training(module: LemonadeModule) -> Callable[..., Any]:
    """Returns a training step in which each half's gradients are computed before the other half's forward pass.

    Autograd is told of them by a loss whose gradients are known. So all that happens around a step (scaling, clipping, accumulation, hooks
    on the loss) happens as it does with the whole batch.
    """
    step = module.training_step

    @wraps(step)  # Lightning reads the signature
    def halved(batch: Any, *arguments: Any) -> Any:  # noqa: ANN401 (Lightning's)
        parts = _parts(module, batch)
        if len(parts) == 1:
            return step(batch, *arguments)
        # small gradients of 16-bit floats vanish unless the loss is scaled before they are computed, not after
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler else 1.0
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        losses: list[Tensor] = []
        gradients: list[Tensor | None] = [None] * len(parameters)
        output: Any = None
        for part, share in parts:
            output = step(part, *arguments)
            loss = output["loss"] if isinstance(output, Mapping) else output
            if loss is None:  # a step that is skipped
                continue
            found = torch.autograd.grad(loss * (share * scale), parameters, allow_unused=True)
            gradients = [_sum(old, new) for old, new in zip(gradients, found, strict=True)]
            losses.append(loss.detach() * share)
        if not losses:
            return output
        known = [gradient if gradient is None else gradient / scale for gradient in gradients]
        loss = _Known.apply(torch.stack(losses).sum(), known, *parameters)
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    return halved


def _halved_validation(module: LemonadeModule) -> Callable[..., Any]:
    """Returns a validation step that takes one half after the other; it returns what the last one does."""
    step = module.validation_step

    @wraps(step)
    def halved(batch: Any, *arguments: Any) -> Any:  # noqa: ANN401
        return [step(part, *arguments) for part, _ in _parts(module, batch)][-1]

    return halved


def _parts(module: LemonadeModule, batch: Any) -> Sequence[tuple[Any, float]]:  # noqa: ANN401
    """Returns what a batch is split into, with each part's share of the samples: the whole where it can't be split."""
    try:
        size = len(module.unpack(batch)[0])
        if size >= SMALLEST:
            both = halves(batch, size)
            sizes = [len(module.unpack(half)[0]) for half in both]
            if sum(sizes) == size:
                return [(half, samples / size) for half, samples in zip(both, sizes, strict=True)]
    except DataError:  # a step may take batches that nobody else can read; whatever is wrong with one shows in the step itself
        pass
    return [(batch, 1.0)]


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if old is None else old if new is None else old + new


class _Known(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *_: Tensor) -> Tensor:  # noqa: ANN401 (torch's own)
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:  # noqa: ANN401
        return None, None, *(gradient if gradient is None else gradient * scale for gradient in ctx.gradients)
