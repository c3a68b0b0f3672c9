from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_lemonade import LemonadeModule
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import Activation, Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Mix, Node, Output
from lightning_lemonade.module import Training, cosine

GATED = GraphSpec(
    (
        Node("n0", Input((1, 8, 8))),
        Node("n1", Conv2d(4, (3, 3), padding=(1, 1)), ("n0",)),
        Node("n2", Activation("relu"), ("n1",)),
        Node("n3", Conv2d(4, (3, 3), padding=(1, 1)), ("n2",)),
        Node("n4", Mix(), ("n3", "n2")),
        Node("n5", GlobalPool2d("avg"), ("n4",)),
        Node("n6", Linear(10), ("n5",)),
        Node("n7", Output(), ("n6",)),
    )
)


def fitted(settings):
    module = LemonadeModule(GATED, settings)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    x = torch.zeros(8, 1, 8, 8)
    trainer.fit(module, DataLoader(TensorDataset(x, torch.zeros(8, dtype=torch.int64)), batch_size=8))
    return module


def test_gates_have_no_weight_decay_and_everything_else_has():
    module = fitted(Training(weight_decay=0.5))
    groups = module.optimizers().param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in module.network.named_parameters()}
    assert len(found) == len(decay)
    assert {name for name, value in found.items() if value == 0} == {name for name in found if name.endswith(".gate")} != set()
    assert set(found.values()) == {0.0, 0.5}


def test_the_schedule_warms_up_to_one_and_ends_at_zero():
    factors = [cosine(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert cosine(0, 1, 0.0) == 1


def test_the_validation_error_is_the_share_of_wrong_answers():
    data = DigitsDataModule()
    data.setup("fit")
    module = LemonadeModule(GATED)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
    x, y = next(iter(data.val_dataloader()))
    assert len(y) == len(data.val_dataloader().dataset)
    with torch.no_grad():
        wrong = (module.eval()(x).argmax(1) != y).double().mean()
    assert metrics["val_error"] == pytest.approx(float(wrong), abs=1e-6)


@pytest.mark.parametrize("asked", [True, False])
def test_the_layout_in_memory_is_a_setting(asked):
    weight = LemonadeModule(GATED, Training(channels_last=asked)).network.get_submodule("n3").weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == asked
    assert weight.is_contiguous() != asked


@pytest.mark.parametrize("changed", [{"learning_rate": -1}, {"label_smoothing": 1}, {"momentum": float("nan")}, {"warmup": 2}])
def test_settings_out_of_range_are_refused_by_name(changed):
    with pytest.raises(ConfigurationError, match=next(iter(changed))):
        Training(**changed)


def test_label_smoothing_spreads_the_target_over_all_classes():
    logits, target = torch.randn(6, 10), torch.arange(6)
    plain, smooth = (LemonadeModule(GATED, Training(label_smoothing=share)).loss(logits, target) for share in (0.0, 0.2))
    uniform = -torch.log_softmax(logits, 1).mean()
    assert smooth == pytest.approx(0.8 * float(plain) + 0.2 * float(uniform), rel=1e-5)


def test_top5_errors_are_logged_where_there_are_more_than_five_classes():
    module = LemonadeModule(GATED)
    logits = torch.arange(10.0).repeat(4, 1)
    module.validation_metrics.update(logits, torch.tensor([9, 5, 4, 0]))
    assert {name: float(value) for name, value in module.validation_metrics.compute().items()} == {"val_error": 0.75, "val_top5_error": 0.5}
