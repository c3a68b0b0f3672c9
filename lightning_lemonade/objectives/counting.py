"""The counter of record for multiply-adds: fvcore."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lightning_lemonade.errors import ObjectiveError

_FREE = (  # elementwise work and data movement: no multiply-adds by convention; fvcore would warn that it doesn't know them
    "add", "add_", "amax", "cat", "clamp", "dropout", "elu", "elu_", "feature_dropout", "flatten", "gelu", "hardsigmoid", "hardsigmoid_",
    "hardswish", "hardswish_", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "max_pool2d", "adaptive_max_pool2d", "avg_pool2d",
    "max", "mean", "mul", "mul_", "relu", "relu6", "relu_", "rsub", "sigmoid", "silu", "silu_", "sub", "tanh",
)  # fmt: skip


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Counts the multiply-adds of one forward pass for one sample.

    A fused multiply-add is 1. A batch norm counts 2 for each element (eval mode), an adaptive average 1 for each input element; biases,
    activations, sums, products and other pools are free. The count runs on the CPU, on a copy if the network isn't there, and in eval
    mode, in which the statistics of batch norms stay as they are.

    Args:
        network: maps (batch, *input_shape) to its output.
        input_shape: the shape of one sample.

    Returns:
        The number of multiply-adds.

    Raises:
        ObjectiveError: if fvcore meets an operation that it can't count.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing fvcore and tracing emit deprecation warnings of torch.jit
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 (its import is slow and noisy)

        if any(tensor.device.type != "cpu" for tensor in network.state_dict().values()):
            network = copy.deepcopy(network).to("cpu")
        first = next((p for p in network.parameters() if p.is_floating_point()), None)
        sample = torch.zeros(1, *input_shape, dtype=torch.float32 if first is None else first.dtype)
        with _evaluating(network), torch.enable_grad():  # under no_grad, fvcore counts no attention
            analysis = FlopCountAnalysis(network, sample)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analysis.set_op_handle(**{f"aten::{name}": None for name in _FREE})
            total = int(analysis.total())
            unknown = analysis.unsupported_ops()
    if unknown:
        raise ObjectiveError(f"multiply-adds: fvcore can't count {', '.join(sorted(unknown))}; the figure would be too low")
    return total


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode for a block, and each of its modules back into its own mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
