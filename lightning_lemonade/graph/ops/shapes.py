"""Shapes of one sample, without the batch: `(channels, height, width)` for images and `(features,)` for vectors.

Each function raises ValueError, with the reason, for shapes that don't fit.
"""

from collections.abc import Sequence

from lightning_lemonade.graph.ops.checks import Pair

Shape = tuple[int, ...]


def image(shape: Shape) -> Shape:
    """Returns the shape, if it is that of an image."""
    if len(shape) != 3:
        raise ValueError(f"needs an input of shape (channels, height, width), got {shape}")
    return shape


def same(shapes: Sequence[Shape]) -> Shape:
    """Returns the shape that all of them are."""
    if len(set(shapes)) != 1:
        raise ValueError(f"needs inputs of one shape, got {', '.join(map(str, shapes))}")
    return shapes[0]


def window(shape: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool = False) -> Pair:
    """Returns height and width after a sliding window, by PyTorch's formula."""
    sizes = []
    for size, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
        span = size + 2 * p - d * (k - 1) - 1
        out = (span + s - 1) // s + 1 if ceil else span // s + 1
        if ceil and (out - 1) * s >= size + p:  # PyTorch drops a window that would start in the padding
            out -= 1
        if out < 1:
            raise ValueError(f"window {kernel} with dilation {dilation} is larger than the padded input {shape}")
        sizes.append(out)
    return (sizes[0], sizes[1])
