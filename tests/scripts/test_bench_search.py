import re
import sys
from pathlib import Path

import image_files
import numpy as np
import programs
import pytest
import pytorch_lightning as pl
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench_search import Subset  # noqa: E402 (the scripts are no package)
from hand_space import FixedChooser, RandomChooser, choose, encode, ladder, staged_net  # noqa: E402

from lightning_lemonade.spaces import ConvNetSpace  # noqa: E402

SHAPE = (1, 28, 28)


@pytest.mark.parametrize("starts", ["paper", "strided"])
def test_the_hand_written_space_holds_our_starting_networks_and_ten_random_members(starts):
    space, rng, held = ConvNetSpace(starts=starts), np.random.default_rng(0), 0
    starts = space.initial(SHAPE, 10)
    members = []
    for number in range(24):  # removed layers leave stages without a block in many, which the space doesn't have
        spec = starts[number % 4]
        for _ in range(2):
            spec = space.mutate(spec, rng)[1]
        members.append(spec)
    for spec in starts:
        assert choose(FixedChooser(encode(spec)), SHAPE, 10).structural_hash == spec.structural_hash
    for spec in members:
        try:
            choices = encode(spec)
        except ValueError:  # a stage without a block, for instance
            continue
        held += choose(FixedChooser(choices), SHAPE, 10).structural_hash == spec.structural_hash
    assert held >= 10


def test_random_choices_build_networks_that_encode_to_themselves():
    rng = np.random.default_rng(1)
    for _ in range(10):
        spec = choose(RandomChooser(rng), SHAPE, 10)
        assert choose(FixedChooser(encode(spec)), SHAPE, 10).structural_hash == spec.structural_hash


def test_a_ladder_spreads_its_sizes():
    sizes = [spec.parameter_count for spec in ladder(lambda width: staged_net(SHAPE, 10, width, "separable", "pool"), 2_000, 200_000, 5)]
    assert sizes == sorted(sizes)
    assert sizes == pytest.approx(np.geomspace(2_000, 200_000, 5), rel=0.1)
    assert sizes[0] >= 2_000


def test_the_short_form_compares_every_kind_of_method(tmp_path):
    methods = ["ours", "unscreened", "short", "scratch-1", "uniform", "random-1", "nsga2-1", "sms-emoa-1", "ladder-1", "ladder-spanning-1"]
    out = tmp_path / "points.csv"
    command = ["bench_search.py", "--data=digits", "--minutes=0.03", "--seeds=0", f"--out={out}", "--methods", *methods]
    done = programs.run_script(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    for method in methods:
        assert f"seed 0 {method}: test hypervolume 0." in done.stdout
        assert f",{method},0," in out.read_text()
    assert "error reference 0.3" in done.stdout
    assert programs.run_script(*command).stdout == done.stdout
    short = programs.run_script("bench_search.py", "--data=digits", "--minutes=0.0001", "--seeds=0", "--methods", "ladder-1")
    assert short.returncode == 1
    assert "seed 0 ladder-1: no network was trained in 0.0001 minutes: give more" in short.stderr
    other = programs.run_script(*command, "--epochs", "2")
    assert other.returncode == 1
    assert "give another file" in other.stderr


class Recorder(pl.LightningModule):
    """Keeps the batches of each loop."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, _):
        self.seen["train"].append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch, _):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)


def shifted_and_mirrored(image):
    """All forms of an image (channels, height, width) that the benchmark trains on, as bytes."""
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, (4,) * 4)
    crops = [padded[:, top : top + height, left : left + width] for top in range(9) for left in range(9)]
    return {form.numpy().tobytes() for crop in crops for form in (crop, crop.flip(2))}


@pytest.mark.parametrize("augment", [False, True])
def test_only_training_images_are_augmented_and_only_if_asked(tmp_path, augment):
    image_files.write_mnist(tmp_path / "FashionMNIST" / "raw", (5_300, 30))
    data, recorder = Subset("fashion", str(tmp_path), 256, augment=augment), Recorder()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0
    )
    trainer.fit(recorder, data)
    trainer.test(recorder, data, verbose=False)
    for split, batches in recorder.seen.items():
        images = [data.sets[split][i][0] for i in range(len(data.sets[split]))]
        held = {image.numpy().tobytes() for image in images}
        seen = [image.numpy().tobytes() for x, _ in batches for image in x]
        assert len(seen) == {"train": 256, "val": 5_000, "test": 30}[split]
        if augment and split == "train":
            assert sum(image in held for image in seen) < 20  # one of 162 forms is the image itself
            assert set(seen) <= set().union(*map(shifted_and_mirrored, images))
        else:
            assert set(seen) == held


def test_what_is_augmented_is_told_apart(tmp_path):
    image_files.write_mnist(tmp_path / "FashionMNIST" / "raw", (5_300, 30))
    command = ["bench_search.py", "--data=fashion", f"--data_root={tmp_path}", "--images=256", "--minutes=0.01", "--seeds=0"]
    command += [f"--out={tmp_path / 'points.csv'}", "--methods", "ladder-1"]
    plain = programs.run_script(*command)
    assert plain.returncode == 0, plain.stderr[-2000:]
    other = programs.run_script(*command, "--augment")
    assert other.returncode == 1
    assert "asked for are fashion, 256 images, augmented, 0.01 minutes" in other.stderr
    (tmp_path / "points.csv").unlink()
    augmented = programs.run_script(*command, "--augment")
    assert augmented.returncode == 0, augmented.stderr[-2000:]
    first = [re.search(r"best (0\.\d+)", done.stdout)[1] for done in (plain, augmented)]
    assert first[0] != first[1]


def test_digits_are_not_augmented():
    done = programs.run_script("bench_search.py", "--data=digits", "--augment")
    assert done.returncode == 2
    assert "--augment: the digits are trained on as they are" in done.stderr


def test_shapes_and_learning_rates_of_starting_networks_are_compared():
    done = programs.run_script(
        "bench_starts.py", "--data=digits", "--epochs=1", "--learning_rates", "0.1", "0.2", "--shapes", "2,2/4", "2/4/6,6"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split(",")[:2] for line in lines] == [["digits 2", "2/4"]] * 2 + [["digits 2/4/6", "6"]] * 2
    assert len({re.search(r"error (0\.\d{4}) \(test (0\.\d{4})\)", line).groups() for line in lines}) == 4
