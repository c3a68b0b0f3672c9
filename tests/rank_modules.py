"""Modules that go wrong on one of two ranks, for one candidate."""

import torch.distributed as dist

from lightning_lemonade import LemonadeModule
from lightning_lemonade.spaces import ConvNetSpace

SECOND = ConvNetSpace().initial((1, 8, 8), 10)[1].structural_hash


class _OnRankOne(LemonadeModule):
    def goes_wrong(self):
        return dist.get_rank() == 1 and self.spec.structural_hash == SECOND and self.training


class NanOnRankOne(_OnRankOne):
    def loss(self, logits, target):
        return super().loss(logits, target) * (float("nan") if self.goes_wrong() else 1.0)


class RaisingOnRankOne(_OnRankOne):
    def loss(self, logits, target):
        if self.goes_wrong() and self.global_step == 3:
            raise RuntimeError("this rank's own bug")
        return super().loss(logits, target)
