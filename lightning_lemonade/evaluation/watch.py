"""What is seen to while a child is trained, and before."""

from collections.abc import Mapping
from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.func import functional_call

from lightning_lemonade.errors import EvaluationError
from lightning_lemonade.evaluation.scopes import seed_all, seeded
from lightning_lemonade.evaluation.shares import TrainingShare
from lightning_lemonade.module import LemonadeModule
from lightning_lemonade.search import derived_seed


class Watch(pl.Callback):
    """Counts what a training costs, and sees that its loss and its weights stay finite.

    What isn't finite on one of several ranks is raised on all of them, at the end of the epoch: one rank that stopped at once would
    leave the others waiting for its gradients.

    Args:
        seed: the child's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.images = self.epochs = 0
        self._losses: Tensor | float = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seeds each rank apart: each draws dropout and augmentation of its own."""
        if trainer.world_size > 1:
            seed_all(derived_seed(self.seed, "rank", trainer.global_rank))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Counts images, each once however many ranks share the batch, and sums up losses."""
        seen, share = len(cast(LemonadeModule, pl_module).unpack(batch)[0]), getattr(trainer.train_dataloader, "batch_sampler", None)
        self.images += share.whole(batch_idx, seen) if isinstance(share, TrainingShare) else seen
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # summed on the device: looking at each one would make every step wait
            self._losses = self._losses + loss.detach().float()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the epoch, and checks its losses."""
        self.epochs += 1
        losses, self._losses = torch.as_tensor(self._losses, device=pl_module.device), 0.0
        self._check(trainer, losses.isfinite().all(), f"the loss was nan or infinite in epoch {self.epochs}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the weights."""
        weights = pl_module.get_submodule("network").state_dict()
        finite = [tensor.isfinite().all() for tensor in weights.values()]
        self._check(trainer, torch.stack(finite).all(), "the trained weights are nan or infinite")

    def _check(self, trainer: pl.Trainer, finite: Tensor, problem: str) -> None:
        """Raises on every rank if something isn't finite on any."""
        if float(trainer.strategy.reduce((~finite).float(), reduce_op="max")):
            raise EvaluationError(f"{problem}: lower the learning rate or check the data")


def check_output(module: LemonadeModule, samples: Tensor, output_shape: tuple[int, ...]) -> None:
    """Sees that a module's output has the shape that its spec says, before it is trained. Leaves the module as it was.

    An output that is no tensor is left to the module's own steps, which make something of it.

    Args:
        module: before it meets a trainer, so on the CPU, unless its class says otherwise.
        samples: a few of them: (batch, *sample).
        output_shape: of one sample's output.

    Raises:
        EvaluationError: of the kind `wrong_output`, if it has another one.
    """
    modes = [(part, part.training) for part in module.modules()]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}  # a forward may count in them, also in eval mode
    try:
        with seeded(0), torch.no_grad():
            output = functional_call(module.eval(), buffers, (samples.to(module.device),))
    finally:
        for part, mode in modes:
            part.training = mode
    wanted = (len(samples), *output_shape)
    if isinstance(output, Tensor) and output.shape != wanted:
        raise EvaluationError(
            f"the module's output for {len(samples)} samples has the shape {tuple(output.shape)} instead of {wanted}: see its forward",
            "wrong_output",
        )
