import torch

from lightning_lemonade.evaluation.watch import check_output
from lightning_lemonade.module import LemonadeModule


class Counting(LemonadeModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(torch.nn.functional.dropout(x, training=True))


def test_looking_at_the_output_changes_nothing(small):
    module = Counting(small.spec).train()
    module.network.get_submodule(next(name for name, _ in module.network.named_children())).eval()
    modes = [part.training for part in module.modules()]
    samples = torch.rand(2, 1, 8, 8)
    state, generator = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.get_rng_state()
    check_output(module, samples, (3,))
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
