"""Distillation: a child learns from its parent, too."""

from collections.abc import Sequence
from math import inf
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, fx, nn

from lightning_lemonade.callback import Inheritance
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.module import LemonadeModule


class Distillation(pl.Callback):
    """Lets children that only approximate their parent learn its outputs in their training (paper, section 3.2; the weights ours).

    Adds to the loss of each step: `weight` times the divergence of the child's logits from the parent's, softened by a temperature, and
    `hint_weight` times the squared distance of the outputs at which the child meets its parent again (the changed node's), over the sum of
    their variance and itself. It is for classifiers: outputs are logits of classes.

    The parent costs a forward pass a step, accounted to the child: its time within `fit`, its images by themselves.

    Give the class, or a function that makes one, to `LemonadeTrainer(callbacks=[Distillation])`; each child gets its own.

    Args:
        weight: of the logits' divergence.
        temperature: softens both distributions; at least 1.
        hint_weight: of the changed node's output; 0 leaves it out.
        epochs: distil in the first epochs only; by default in all.
        exact: also distil children that start with exactly their parent's function, which holds them back where they could grow.

    Raises:
        ConfigurationError: if a weight is negative, or the temperature below 1.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        temperature: float = 2.0,
        hint_weight: float = 0.1,
        epochs: int | None = None,
        exact: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= weight < inf or not 0 <= hint_weight < inf or not 1 <= temperature < inf:
            raise ConfigurationError(
                f"distillation needs weights of at least 0 and a temperature of at least 1, got weight={weight}, "
                f"hint_weight={hint_weight}, temperature={temperature}"
            )
        if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0):
            raise ConfigurationError(f"epochs must be a whole number of at least 0, or None for all of them, got {epochs!r}")
        self.weight, self.temperature, self.hint_weight, self.epochs, self.exact = weight, temperature, hint_weight, epochs, exact
        self.teacher_images = 0
        self._inheritance: Inheritance | None = None
        self._ranks = 1

    def on_inherit(self, module: LemonadeModule, inheritance: Inheritance) -> None:
        """Keeps the parent, unless the child is exact. See `Heir`."""
        if self.exact or not inheritance.exact:
            self._inheritance = inheritance

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds the distillation's term to the module's loss."""
        if self._inheritance is None or not isinstance(pl_module, LemonadeModule):
            return
        self._ranks = trainer.world_size
        teacher = self._inheritance.parent.to(pl_module.device)
        joints = self._inheritance.joints if self.hint_weight else ()
        self._teacher, self._seen = _Recorded(teacher, joints), _Recorded(pl_module.network, joints)
        pl_module.loss_terms.append(self._term)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the distillation after its epochs."""
        if self.epochs is not None and trainer.current_epoch >= self.epochs:
            self._end(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the distillation."""
        self._end(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Ends the distillation."""
        self._end(pl_module)

    def _end(self, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, LemonadeModule) and self._term in pl_module.loss_terms:
            pl_module.loss_terms.remove(self._term)
            self._seen.close()
            self._teacher.close()

    def _term(self, x: Tensor, logits: Tensor) -> Tensor:
        """Returns the distillation's part of the loss for samples (batch, *sample) and the child's logits (batch, classes)."""
        self.teacher_images += len(x) * self._ranks
        with torch.no_grad():
            target = self._teacher.network(x)
        loss = self.weight * divergence(logits, target, self.temperature)
        for joint, wanted in self._teacher.outputs.items():
            got = self._seen.outputs[joint]
            distance = nn.functional.mse_loss(got, wanted)
            # bounded by 1: where a barely trained parent hardly varies, the plain ratio would make the training diverge
            loss = loss + self.hint_weight * distance / (wanted.var() + distance.detach()).clamp(min=1e-6)
        return loss


def divergence(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns the mean Kullback-Leibler divergence of softened predictions from a target's, times the temperature squared.

    Args:
        logits: (batch, classes, ...), with more than one class; the mean is over samples and positions.
        target: the logits to learn, of the same shape.
        temperature: divides both.
    """
    predicted = torch.log_softmax(logits / temperature, 1)
    wanted = torch.log_softmax(target / temperature, 1)
    return nn.functional.kl_div(predicted, wanted, reduction="none", log_target=True).sum(1).mean() * temperature**2


class _Recorded:
    """Keeps what some nodes of a network put out in its last forward pass."""

    def __init__(self, network: fx.GraphModule, node_ids: Sequence[str]) -> None:
        self.network = network
        self.outputs: dict[str, Tensor] = {}
        self._hooks = [network.get_submodule(node_id).register_forward_hook(self._keep(node_id)) for node_id in node_ids]

    def _keep(self, node_id: str) -> Any:  # noqa: ANN401 (torch's type of a hook)
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            self.outputs[node_id] = output

        return keep

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self.outputs.clear()
