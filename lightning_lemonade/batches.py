"""What a data module's batches look like, and how samples and targets are found in them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_lemonade.errors import ConfigurationError, DataError

Place = str | int
BatchFormat = tuple[Place, Place] | Callable[[Any], tuple[Tensor, Tensor]] | None
"""Where a batch holds samples and targets: two keys of a dict or two places of a tuple, a function that returns both, or None.

None finds them in a tuple or list of two tensors, and in a dict under the usual names.
"""

SAMPLE_KEYS = ("x", "image", "images", "img", "pixel_values", "input", "inputs", "data")
TARGET_KEYS = ("y", "label", "labels", "target", "targets", "mask", "fine_label")


def unpack(batch: object, batch_format: BatchFormat = None) -> tuple[Tensor, Tensor]:
    """Returns samples and targets of a batch; whole numbers among the targets as int64, which losses expect.

    One real number for each sample, (batch,), becomes (batch, 1), the shape of a network's output: losses would broadcast the two.

    Args:
        batch: what a loader yields, after the data module's hooks.
        batch_format: where samples and targets are.

    Returns:
        Samples (batch, *sample) and targets (batch, ...).

    Raises:
        DataError: if they aren't there, or are no tensors.
    """
    try:
        found = batch_format(batch) if callable(batch_format) else _found(batch, batch_format)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"batch_format can't read {_shown(batch)}: {type(error).__name__}: {error}") from error
    if not isinstance(found, tuple | list) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
        raise DataError(
            f"the data module yields {_shown(batch)}; a search needs samples and targets, two tensors: "
            f'give batch_format=("image", "label") with the keys (or places) of both, or a function of the batch that returns them'
        )
    x, y = found
    if not y.is_floating_point():
        return x, y.long()
    return x, y[:, None] if y.ndim == 1 else y


def check_format(batch_format: object) -> None:
    """Raises ConfigurationError unless this is a `BatchFormat`."""
    places = isinstance(batch_format, tuple | list) and len(batch_format) == 2 and all(isinstance(part, str | int) for part in batch_format)
    if not (batch_format is None or callable(batch_format) or places):
        raise ConfigurationError(
            f"batch_format={batch_format!r} can't be used: give two keys or places, ('image', 'label') for instance, or a function"
        )


def _found(batch: object, places: tuple[Place, Place] | None) -> tuple[Any, Any] | None:
    if isinstance(batch, Mapping):
        if places is not None:
            return (batch[places[0]], batch[places[1]]) if all(place in batch for place in places) else None
        samples, targets = ([key for key in keys if key in batch] for keys in (SAMPLE_KEYS, TARGET_KEYS))
        return (batch[samples[0]], batch[targets[0]]) if len(samples) == len(targets) == 1 else None
    if isinstance(batch, list | tuple):
        if places is not None:
            inside = all(isinstance(place, int) and -len(batch) <= place < len(batch) for place in places)
            return (batch[places[0]], batch[places[1]]) if inside else None  # type: ignore[index]
        return (batch[0], batch[1]) if len(batch) == 2 else None
    return None


def _shown(batch: object) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with the keys {', '.join(map(str, batch))}"
    if isinstance(batch, list | tuple):
        parts = [type(part).__name__ for part in batch[:4]] + ["..."] * (len(batch) > 4)
        return f"a {type(batch).__name__} of {', '.join(parts) or 'nothing'}"
    return f"a {type(batch).__name__}"
