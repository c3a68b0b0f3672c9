"""LemonadeModule: a candidate as a LightningModule."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_lemonade.errors import DataError
from lightning_lemonade.graph import GraphSpec, build
from lightning_lemonade.graph.build import channels_last


@dataclass(frozen=True)
class Training:
    """How a candidate is trained: SGD with momentum, cosine to zero after a linear warm-up.

    Attributes:
        epochs: of a child.
        initial_epochs: of a starting network.
        learning_rate: the highest.
        momentum: of SGD (Nesterov).
        weight_decay: on all weights but learnt gates (of Mix and of relaxed activations).
        warmup: share of the steps that the warm-up takes.
        gradient_clip: largest norm of a step's gradient, where the trainer has no limit of its own; None leaves it as it is. Weights that
            were solved for lie where a step at the from-scratch rate can be too large.
        channels_last: whether convolutions are laid out so that channels are neighbours in memory, which is faster: see
            `graph.build.channels_last`. Code that looks into the network then needs `reshape` in place of `view`.
    """

    epochs: int = 3
    initial_epochs: int = 20
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    gradient_clip: float | None = 1.0
    channels_last: bool = True


PAPER_TRAINING = Training(epochs=20, initial_epochs=20, learning_rate=0.01, warmup=0.0, gradient_clip=None)
"""The paper's schedule (section 5): 20 epochs, cosine from 0.01 to 0."""


LossTerm = Callable[[Tensor, Tensor], Tensor]
"""From samples (batch, *sample) and the network's output (batch, *output) to a scalar."""


class LemonadeModule(pl.LightningModule):
    """A classifier over a graph spec. Subclass it for another loss, metric or optimiser.

    Args:
        spec: the architecture; maps (batch, *sample) to logits (batch, classes).
        training: the settings of its training.

    Attributes:
        loss_terms: what callbacks add to the loss of each training step.
    """

    def __init__(self, spec: GraphSpec, training: Training | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.training_settings = training or Training()
        self.network = build(spec)
        if self.training_settings.channels_last:
            channels_last(self.network)
        self.accuracy = MulticlassAccuracy(num_classes=max(2, spec.output_shape[0]), average="micro")

        self.loss_terms: list[LossTerm] = []

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits (batch, classes) of samples (batch, *sample)."""
        logits: Tensor = self.network(x)
        return logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss that training minimises: cross-entropy of logits (batch, classes) and classes (batch,)."""
        return nn.functional.cross_entropy(logits, target)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401 (Lightning's signature)
        """Returns the loss of a batch `(x, y)`; one that isn't finite makes the candidate fail."""
        x, y = pair(batch)
        logits = self(x)
        loss = self.loss(logits, y)
        for term in self.loss_terms:
            loss = loss + term(x, logits)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401
        """Counts the right answers of a batch `(x, y)`; the metric over all validation loaders is `val_error`."""
        x, y = pair(batch)
        self.accuracy.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        """Logs `val_error`, the share of wrong answers."""
        self.log("val_error", 1.0 - self.accuracy.compute())
        self.accuracy.reset()

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


def pair(batch: object) -> tuple[Tensor, Tensor]:
    """Returns samples and targets of a batch `(x, y)`; whole numbers as int64, which losses expect.

    Raises:
        DataError: if the batch is anything else.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        x, y = batch
        return x, y if y.is_floating_point() else y.long()
    shown = f"a dict with the keys {', '.join(map(str, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
    raise DataError(f"the data module yields {shown}; a batch must be (x, y), two tensors: return a tuple from its dataset")
