import torch

from lightning_lemonade.datamodules.augmentation import cutout, random_crop, random_flip


def numbered(count=64, size=6):
    """Images whose pixels all differ, and none is zero."""
    return (1 + torch.arange(count * 2 * size * size, dtype=torch.float32)).reshape(count, 2, size, size)


def test_a_crop_is_a_shift_by_up_to_the_padding_of_each_image_on_its_own():
    torch.manual_seed(0)
    images = numbered()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    shifts = set()
    for image, whole in zip(random_crop(images, 2), padded, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(image, whole[:, i : i + 6, j : j + 6])]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15
    assert random_crop(images, 0) is images


def test_about_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    images = numbered(400)
    mirrored = [torch.equal(image, original.flip(2)) for image, original in zip(random_flip(images), images, strict=True)]
    same = [torch.equal(image, original) for image, original in zip(random_flip(images), images, strict=True)]
    assert 150 < sum(mirrored) < 250
    assert 150 < sum(same) < 250


def test_a_square_is_cut_from_each_image_that_may_reach_over_the_border():
    torch.manual_seed(0)
    images = numbered(200)
    cut = cutout(images, 3)
    holes = (cut == 0).all(1)
    sizes = holes.flatten(1).sum(1)
    assert int(sizes.max()) == 9
    assert int(sizes.min()) == 4
    for hole in holes:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert int(hole.sum()) == len(rows) * len(columns)
        assert len(rows) == int(rows[-1] - rows[0]) + 1
    assert torch.equal(cut[cut != 0], images[cut != 0])
    assert cutout(images, 0) is images
    assert torch.equal(cutout(images, 99), torch.zeros_like(images))
