"""How new filters should start: every layer of a trained network is widened, with each way of `Widen.init`, and trained on.

Usage: python scripts/bench_widen.py [--seeds 0 1 2 3 4] [--epochs 2] [--parent_epochs 20] [--width 8]

A plain and a separable network for the handwritten digits are trained from scratch. Then each layer in turn is widened by two, and all
layers at once, and the child is trained for some epochs with the same data order for every way. The row `none` is the parent trained on
without a change. Prints validation loss and error after the training: mean over layers and seeds, and the mean paired difference from
`scaled` with its standard error over seeds.
"""

import argparse
import math
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

from lightning_lemonade.graph import build, initialise, spec_of
from lightning_lemonade.morphisms import Widen
from lightning_lemonade.spaces import conv_net

WAYS = ("none", "scaled", "he", "duplicate")


def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and validation images and labels; the split is drawn from the seed."""
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, held = order[:1200], order[1200:]
    return x[train], y[train], x[held], y[held]


def train(network: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float, seed: int) -> None:
    """SGD with momentum and a cosine, batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator)[: len(x) // 64 * 64].split(64):
            optimiser.zero_grad()
            cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()


def score(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Validation loss and error in percent."""
    network.eval()
    with torch.no_grad():
        out = network(x)
    return float(cross_entropy(out, y)), 100 * float((out.argmax(1) != y).float().mean())


def children(parent: fx.GraphModule, way: str, x: Tensor, seed: int) -> Iterator[tuple[str, fx.GraphModule]]:
    """One child for each layer, and one with all of them widened."""
    layers = [site[0] for site in Widen.sites(spec_of(parent))]
    for name, node in [*((layer, layer) for layer in layers), ("all", tuple(layers))]:
        draws = torch.Generator().manual_seed(seed)
        if way == "none":
            copy = build(spec_of(parent))
            copy.load_state_dict(parent.state_dict())
            yield name, copy
        else:
            yield name, Widen(node, init=way).apply(parent, x[:512], draws)  # type: ignore[arg-type]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--parent_epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.1)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    for separable in (False, True):
        single: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        whole: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for seed in settings.seeds:
            x, y, vx, vy = data(seed)
            torch.manual_seed(seed)
            parent = build(conv_net((1, 8, 8), 10, settings.width, separable=separable))
            initialise(parent)
            train(parent, x, y, settings.parent_epochs, settings.rate, seed)
            for way in WAYS:
                scores = {}
                for name, child in children(parent, way, x, seed):
                    train(child, x, y, settings.epochs, settings.rate, seed + 1000)
                    scores[name] = score(child, vx, vy)
                whole[way].append(scores.pop("all"))
                single[way].append(tuple(torch.tensor(list(scores.values())).mean(0).tolist()))  # type: ignore[arg-type]
        for title, table in (("one layer", single), ("all layers", whole)):
            family = "separable" if separable else "plain"
            print(f"{family} network, {title} doubled, {settings.epochs} epochs, {len(settings.seeds)} seeds")
            base = torch.tensor(table["scaled"])
            for way in WAYS:
                found = torch.tensor(table[way])
                gap = found - base
                error = gap.std(0) / len(gap) ** 0.5 if len(gap) > 1 else gap.new_zeros(2)
                print(
                    f"  {way:10} loss {found[:, 0].mean():.4f} ({gap[:, 0].mean():+.4f} ± {error[0]:.4f})"
                    f"   error {found[:, 1].mean():.2f} % ({gap[:, 1].mean():+.2f} ± {error[1]:.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
