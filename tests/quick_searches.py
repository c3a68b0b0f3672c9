"""A search that ends in seconds, and a module that some networks can't be trained with."""

from lightning_lemonade import LemonadeModule
from lightning_lemonade.module import Training

SMALL = {
    "algorithm": "paper",
    "max_generations": 4,
    "proposals": 8,
    "accepted": 2,
    "training": Training(epochs=1, initial_epochs=1, polish_epochs=2),
    "calibration_size": 64,
    "limit_train_batches": 5,
    "accelerator": "cpu",
}


class TooLarge(LemonadeModule):
    """Can't train more than 7,000 parameters: the largest starting network of the digits."""

    def training_step(self, batch, batch_idx):
        if self.spec.parameter_count > 7000:
            raise RuntimeError("too large")
        return super().training_step(batch, batch_idx)
