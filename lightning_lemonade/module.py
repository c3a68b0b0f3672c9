"""LemonadeModule: a candidate as a LightningModule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_lemonade.batches import BatchFormat, unpack
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import GraphSpec, build
from lightning_lemonade.graph.build import channels_last


@dataclass(frozen=True)
class Training:
    """How a candidate is trained: SGD with momentum, cosine to zero after a linear warm-up.

    Attributes:
        epochs: of a child; three times as many where a search by gain has a time, and that promises more for it: see `GainSampling`.
        initial_epochs: of a starting network.
        polish_epochs: of a member of the front that is polished at the end of a search.
        learning_rate: the highest, but for `long_rate`.
        long_rate: how many times as high it is where a child that inherits its weights is trained for more than `epochs`: weights that know
            their training images by heart generalise better after such a restart. Source: ours, docs/tuning.md.
        momentum: of SGD (Nesterov).
        weight_decay: on all weights but learnt gates (of Mix and of relaxed activations).
        warmup: share of the steps that the warm-up takes.
        gradient_clip: largest norm of a step's gradient, where the trainer has no limit of its own; None leaves it as it is. Weights that
            were solved for lie where a step at the from-scratch rate can be too large.
        label_smoothing: share of the target that the classification loss spreads over all classes, in [0, 1).
        channels_last: whether convolutions are laid out so that channels are neighbours in memory, which is faster: see
            `graph.build.channels_last`. Code that looks into the network then needs `reshape` in place of `view`.
    """

    epochs: int = 3
    initial_epochs: int = 8
    polish_epochs: int = 8
    learning_rate: float = 0.2
    long_rate: float = 3.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    gradient_clip: float | None = 1.0
    label_smoothing: float = 0.0
    channels_last: bool = True

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ConfigurationError: if one is out of its range.
        """
        ranges: dict[str, tuple[float, float | None]] = dict.fromkeys(("learning_rate", "long_rate", "weight_decay"), (0, None))
        ranges |= dict.fromkeys(("momentum", "warmup", "label_smoothing"), (0, 1))
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not value >= low or (high is not None and not value < high):
                bounds = f"of at least {low}" if high is None else f"of at least {low} and below {high}"
                raise ConfigurationError(f"{name} must be a number {bounds}, got {value!r}")

    def of_heir(self, epochs: int | None) -> "Training":
        """Returns the settings for a child that inherits its weights and is trained for so many epochs; None for the usual number."""
        longer = epochs is not None and epochs > self.epochs
        return replace(self, learning_rate=self.long_rate * self.learning_rate) if longer else self


PAPER_TRAINING = Training(epochs=20, initial_epochs=20, learning_rate=0.01, long_rate=1.0, warmup=0.0, gradient_clip=None)
"""The paper's schedule (section 5): 20 epochs, cosine from 0.01 to 0."""


LossTerm = Callable[[Tensor, Tensor], Tensor]
"""From samples (batch, *sample) and the network's output (batch, *output) to a scalar."""


class ErrorRate(MulticlassAccuracy):
    """The share of wrong answers among logits (batch, classes, ...) and classes (batch, ...).

    Args:
        num_classes: at least 2.
        top_k: the answer is right if it is among the k likeliest.
    """

    def __init__(self, num_classes: int, top_k: int = 1) -> None:
        super().__init__(num_classes=num_classes, top_k=top_k, average="micro")

    higher_is_better = False

    def compute(self) -> Tensor:
        """Returns it, in [0, 1]."""
        return 1.0 - super().compute()


class LemonadeModule(pl.LightningModule):
    """A classifier over a graph spec. Subclass it for another loss, other metrics, another optimiser or batch format.

    What a subclass overrides: `loss` and `metrics`, mostly; `configure_optimizers`; `batch_format`; or the steps of Lightning, as in any
    LightningModule. Where it overrides neither loss, metrics nor the steps, a search checks that targets are classes.

    Args:
        spec: the architecture; maps (batch, *sample) to logits (batch, classes).
        training: the settings of its training.

    Attributes:
        batch_format: where a batch holds samples and targets; see `batches.BatchFormat`.
        loss_terms: what callbacks add to the loss of each training step.
    """

    batch_format: BatchFormat = None

    def __init__(self, spec: GraphSpec, training: Training | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.training_settings = training or Training()
        self.network = build(spec)
        if self.training_settings.channels_last:
            channels_last(self.network)
        # no compute groups: which metrics share a state is guessed there from the first batch's values
        self.validation_metrics = MetricCollection(dict(self.metrics()), prefix="val_", compute_groups=False)
        self.loss_terms: list[LossTerm] = []

    def metrics(self) -> Mapping[str, Metric]:
        """Returns the metrics of validation by name, each updated with the network's output and the target; `val_` goes before the names.

        By default `error`, the share of wrong answers, and with more than five classes `top5_error`.
        """
        classes = max(2, self.spec.output_shape[0])
        return {"error": ErrorRate(classes)} | ({"top5_error": ErrorRate(classes, top_k=5)} if classes > 5 else {})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits (batch, classes) of samples (batch, *sample)."""
        logits: Tensor = self.network(x)
        return logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss that training minimises: cross-entropy of logits (batch, classes) and classes (batch,) or shares of them."""
        return nn.functional.cross_entropy(logits, target, label_smoothing=self.training_settings.label_smoothing)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401 (Lightning's signature)
        """Returns the loss of a batch; one that isn't finite makes the candidate fail."""
        x, y = self.unpack(batch)
        logits = self(x)
        loss = self.loss(logits, y)
        for term in self.loss_terms:
            loss = loss + term(x, logits)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401
        """Updates the metrics with a batch; over all validation loaders they are one."""
        x, y = self.unpack(batch)
        self.validation_metrics.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics: `val_error` and so on."""
        self.log_dict(self.validation_metrics.compute())
        self.validation_metrics.reset()

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Returns samples (batch, *sample) and targets (batch, ...) of a batch.

        Raises:
            DataError: if they aren't found.
        """
        return unpack(batch, self.batch_format)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips as the trainer says, and as the settings do if it says nothing; not called under manual optimisation."""
        if gradient_clip_val is None and gradient_clip_algorithm is None:
            gradient_clip_val = self.training_settings.gradient_clip
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """Returns SGD with one cosine schedule over all steps of the training."""
        settings = self.training_settings
        gates = [parameter for name, parameter in self.named_parameters() if name.endswith(".gate")]
        others = [parameter for name, parameter in self.named_parameters() if not name.endswith(".gate")]
        groups = [{"params": others, "weight_decay": settings.weight_decay}, {"params": gates, "weight_decay": 0.0}]
        optimiser = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            foreach=True,  # PyTorch's own choice on GPUs; the same numbers in less time on CPUs
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, steps, settings.warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(step: int, steps: int, warmup: float) -> float:
    """Returns the learning rate's factor at a step: a linear warm-up to 1, then half a cosine to 0.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: share of them that the warm-up takes.
    """
    first = int(warmup * steps)
    if step < first:
        return (step + 1) / (first + 1)
    return 0.5 * (1 + cos(pi * min(1.0, (step - first) / max(1, steps - first))))
