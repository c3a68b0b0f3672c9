"""Augmentation of whole batches, on whatever device they lie."""

import torch
from torch import Tensor
from torch.nn import functional


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Shifts each image by up to `padding` pixels either way; what it uncovers is zero.

    Args:
        images: (N, C, H, W).
        padding: in pixels; 0 leaves the images as they are.

    Returns:
        Images of the same shape.
    """
    if padding == 0:
        return images
    count, _, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    shifts = torch.randint(2 * padding + 1, (2, count, 1, 1), device=device)
    rows = shifts[0] + torch.arange(height, device=device)[:, None]
    columns = shifts[1] + torch.arange(width, device=device)
    return padded[torch.arange(count, device=device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def random_flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability one half. Images (N, C, H, W)."""
    flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flipped, images.flip(3), images)


def cutout(images: Tensor, size: int) -> Tensor:
    """Sets a square of each image to zero, as DeVries and Taylor (2017) do: its centre is any pixel, so it may reach over the border.

    Args:
        images: (N, C, H, W).
        size: side of the square, in pixels; 0 leaves the images as they are.
    """
    if size == 0:
        return images
    count, _, height, width = images.shape
    inside = torch.ones(count, 1, 1, 1, dtype=torch.bool, device=images.device)
    for dimension, length in ((2, height), (3, width)):
        shape = [1, 1, 1, 1]
        shape[dimension] = length
        first = torch.randint(length, (count, 1, 1, 1), device=images.device) - size // 2
        place = torch.arange(length, device=images.device).view(shape)
        inside = inside & (place >= first) & (place < first + size)
    return images.masked_fill(inside, 0)
