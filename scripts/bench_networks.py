"""Networks and data of the benchmark of morphisms: two residual networks with a concat branch and a separable block, trained briefly.

Data is CIFAR-10 in torchvision's layout where there is a folder of it, scikit-learn's handwritten digits otherwise.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from lightning_lemonade.graph import (
    Activation,
    Add,
    BatchNorm2d,
    Concat,
    Conv2d,
    GlobalPool2d,
    GraphSpec,
    Input,
    Linear,
    Node,
    Op,
    Output,
    Pool2d,
    build,
    initialise,
)

CROP = 4


@dataclass(frozen=True)
class Data:
    """Images (samples, channels, height, width), standardised, and their classes (samples,)."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    augment: bool

    def calibration(self, size: int, seed: int) -> Tensor:
        """Returns training images without augmentation: (size, channels, height, width)."""
        order = torch.randperm(len(self.train[0]), generator=torch.Generator().manual_seed(seed))
        return self.train[0][order[:size]]


def load_data(root: Path | None, images: int, tests: int) -> Data:
    """Returns CIFAR-10 from a folder in torchvision's layout, or the digits if none is given.

    Args:
        root: the folder that holds `cifar-10-batches-py`.
        images: how many training images to use, of CIFAR-10.
        tests: how many test images to use, of CIFAR-10.
    """
    if root is None:
        from sklearn.datasets import load_digits  # noqa: PLC0415 (as below: what a process that measures memory needn't import)

        x, y = load_digits(return_X_y=True)
        values, classes = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
        values = (values - 4.9) / 6.0
        first, last = order[:1200], order[1200:]
        return Data("digits", (values[first], classes[first]), (values[last], classes[last]), augment=False)
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    parts = []
    for train, count in ((True, images), (False, tests)):
        whole = CIFAR10(str(root), train=train)
        values = torch.from_numpy(whole.data[:count]).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
        parts.append((((values - mean[:, None, None]) / std[:, None, None]).contiguous(), torch.tensor(whole.targets[:count])))
    return Data("CIFAR-10", parts[0], parts[1], augment=True)


class Chain:
    """Builds a spec node by node; every method returns the id of its last node."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.nodes: list[Node] = [Node("n0", Input(shape))]

    def put(self, op: Op, *sources: str) -> str:
        """Adds a node, behind the last one if no source is named."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(Node(name, op, sources or (self.nodes[-1].id,)))
        return name

    def conv(self, source: str, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1, *, act: bool = True) -> str:
        """A convolution with batch norm, and ReLU if asked for."""
        conv = Conv2d(filters, (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), groups=groups, bias=False)
        last = self.put(BatchNorm2d(), self.put(conv, source))
        return self.put(Activation("relu"), last) if act else last

    def residual(self, source: str, filters: int, inner: int = 0) -> str:
        """Two 3x3 convolutions around a skip; with `inner` filters a bottleneck of 1x1, 3x3 and 1x1."""
        if inner:
            last = self.conv(self.conv(self.conv(source, inner, 1), inner), filters, 1, act=False)
        else:
            last = self.conv(self.conv(source, filters), filters, act=False)
        return self.put(Activation("relu"), self.put(Add(), last, source))

    def separable(self, source: str, channels: int, filters: int, stride: int = 1) -> str:
        """A depthwise and a pointwise convolution, each with batch norm and ReLU."""
        return self.conv(self.conv(source, channels, 3, stride, channels), filters, 1)

    def head(self, classes: int) -> GraphSpec:
        """Ends with a global average and a linear layer."""
        self.put(GlobalPool2d("avg"))
        self.put(Linear(classes))
        self.put(Output())
        return GraphSpec(tuple(self.nodes))


def plain(shape: tuple[int, ...], width: int) -> GraphSpec:
    """Residual blocks of two 3x3 convolutions; a stage of two tied blocks behind a concat of two branches; a strided separable block."""
    net = Chain(shape)
    last = net.residual(net.conv("n0", width), width)
    last = net.put(Pool2d("max", (2, 2), (2, 2)), last)
    last = net.put(Concat(), net.conv(last, 3 * width // 2), net.conv(last, width // 2, 1))
    last = net.conv(last, 2 * width, 1)
    last = net.residual(net.residual(last, 2 * width), 2 * width)
    last = net.separable(last, 2 * width, 4 * width, 2)
    net.residual(last, 4 * width)
    return net.head(10)


def bottleneck(shape: tuple[int, ...], width: int) -> GraphSpec:
    """A strided stem stage, bottleneck blocks, a concat of the stream with a branch, separable blocks, and no batch norm before the sum."""
    net = Chain(shape)
    last = net.conv(net.conv("n0", width), 2 * width, 3, 2)
    last = net.residual(last, 2 * width)
    last = net.put(Concat(), last, net.conv(last, width))
    last = net.separable(last, 3 * width, 3 * width)
    last = net.conv(last, 4 * width, 3, 2)
    last = net.residual(net.residual(last, 4 * width, 2 * width), 4 * width, 2 * width)
    net.separable(last, 4 * width, 6 * width)
    return net.head(10)


NETWORKS = {"plain": (plain, 16, 8), "bottleneck": (bottleneck, 16, 8)}
"""The networks by name: what makes them, and their width for CIFAR-10 and for the digits."""


def make(name: str, data: Data) -> GraphSpec:
    """Returns the spec of a network."""
    function, width, small = NETWORKS[name]
    return function(tuple(data.train[0].shape[1:]), width if data.name == "CIFAR-10" else small)


def trained(name: str, data: Data, seed: int, epochs: int, folder: Path | None = None) -> fx.GraphModule:
    """Trains a network: SGD with Nesterov momentum, a cosine, flips and shifts of images of objects.

    Args:
        name: one of `NETWORKS`.
        data: what to train on.
        seed: of weights and batches.
        epochs: how long.
        folder: where trained weights are kept and looked for.
    """
    from lightning_lemonade.module import cosine  # noqa: PLC0415

    spec = make(name, data)
    torch.manual_seed(seed)
    network = build(spec)
    file = folder / f"{data.name}-{len(data.train[0])}-{name}-{spec.structural_hash[:8]}-{seed}-{epochs}.safetensors" if folder else None
    if file is not None and file.is_file():
        network.load_state_dict(load_file(file))
        return network.eval()
    initialise(network)
    x, y = data.train
    optimiser = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, steps, 0.1))
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - 63, 64):
            chosen = order[start : start + 64]
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(augmented(x[chosen]) if data.augment else x[chosen]), y[chosen]).backward()
            optimiser.step()
            schedule.step()
    if file is not None and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), file)
    return network.eval()


def augmented(x: Tensor) -> Tensor:
    """Returns images (batch, channels, height, width), each flipped or not, and all shifted by up to four pixels."""
    padded = nn.functional.pad(x, (CROP,) * 4)
    top, left = torch.randint(0, 2 * CROP + 1, (2,)).tolist()
    moved = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, moved.flip(3), moved)


def accuracy_and_logits(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Returns the share of correct answers in percent, and the logits (samples, classes)."""
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(part) for part in x.split(500)])
    return 100 * float((logits.argmax(1) == y).float().mean()), logits
