"""What shrinking costs a trained network, before any training: accuracy and divergence of the logits, every layer in turn.

Usage: python scripts/bench_morphisms.py [halving] [separable] [removal] [others] [cost] [memory] [--data_root ROOT] [--seeds 0 1] [--short]

Two residual networks, each with a concat branch and a depthwise-separable block, are trained on CIFAR-10 (--data_root, or the variable
LEMONADE_DATA_ROOT of the environment: the folder that holds `cifar-10-batches-py`), or on scikit-learn's handwritten digits without one.
Then each layer is changed in turn, in every way that is compared; layers that are tied and shrink together count once.

halving: half of a layer's filters go. torch-pruning, from the package index, is one of the ways if it is installed.
separable: a convolution becomes depthwise-separable. removal: a layer goes. others: the remaining operators.
cost: forwards over the calibration images (multiply-adds of layers, in those of one forward of the parent), seconds for them, for solving
    and for the rest; proposals a second on 60 nodes.
memory: the peak of a transfer on a network of 10 million parameters, in a process of its own, beside that of a plain pass.
"""

import argparse
import copy
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from bench_costs import clocked, show_memory, show_proposals, sixty_nodes
from bench_networks import NETWORKS, Data, accuracy_and_logits, load_data, trained
from torch import Tensor, fx, nn

from lightning_lemonade.graph import GraphSpec, spec_of
from lightning_lemonade.morphisms import (
    MergeLayers,
    Mutation,
    PruneFilters,
    RemoveLayer,
    RemoveSkip,
    ShrinkKernel,
    State,
    ToSeparable,
    network_with,
)
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.prune import carried, largest
from lightning_lemonade.morphisms.solve import Refit, divergence, layers_below, observe, solved

Way = Callable[["Case", Mutation], nn.Module]
SHORT_SITES = 3


@dataclass(frozen=True)
class Case:
    """A trained network, and what it is judged with."""

    network: fx.GraphModule
    data: Data
    calibration: Tensor
    seed: int
    accuracy: float
    logits: Tensor

    @property
    def spec(self) -> GraphSpec:
        """The network's graph."""
        return spec_of(self.network)

    @property
    def state(self) -> State:
        """The network's weights."""
        return self.network.state_dict()

    def generator(self) -> torch.Generator:
        """Returns a generator for one change."""
        return torch.Generator().manual_seed(self.seed)


def mode(name: str) -> Way:
    """Returns a way: our operator in one of its modes."""

    def change(case: Case, mutation: Mutation) -> nn.Module:
        arguments = {key: value for key, value in mutation.arguments().items() if key != "mode"}
        return mutation.at(mutation.places[0], **arguments, mode=name).apply(case.network, case.calibration, case.generator())

    return change


def kept_channels(choose: Callable[[Case, GraphSpec, dict[int, int]], dict[int, Tensor]], *, refit: bool = False) -> Way:
    """Returns a way to prune: a choice of channels, with nothing else done, or with readers refitted and batch norms measured anew."""

    def change(case: Case, mutation: Mutation) -> nn.Module:
        spec, state, child = case.spec, case.state, mutation.rewrite(case.spec)
        sizes = mutation._sizes(spec, mutation.places[0])  # type: ignore[attr-defined]
        producers = [i for group in sizes for i in spec.channels.groups[group].producers]
        layers = layers_below(spec, producers)
        weights, maps = carried(spec, state, child, choose(case, spec, sizes), case.generator())
        if refit:
            observed = observe(spec, state, child, case.calibration, layers, case.generator())
            weights = solved(child, weights, [Refit(i, i, maps[i]) for i in layers], observed, producers)
        return network_with(child, weights)

    return change


def drawn(case: Case, spec: GraphSpec, sizes: dict[int, int]) -> dict[int, Tensor]:
    """Chooses channels at random."""
    generator = case.generator()
    return {g: torch.randperm(spec.channels.groups[g].size, generator=generator)[:size].sort().values for g, size in sizes.items()}


def torch_pruning(*, norms: bool) -> Way:
    """Returns a way to prune: torch-pruning's dependency graph and group importance, then a pass in train mode if asked for."""

    def change(case: Case, mutation: Mutation) -> nn.Module:
        import torch_pruning as tp  # noqa: PLC0415 (only where it is installed)

        network = copy.deepcopy(case.network).eval()
        layer = network.get_submodule(mutation.places[0][0])
        graph = tp.DependencyGraph().build_dependency(network, example_inputs=case.calibration[:2])
        everything = graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(layer.out_channels)))
        order = tp.importance.GroupMagnitudeImportance(p=2)(everything).argsort()
        graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=order[: layer.out_channels // 2].tolist()).prune()
        if norms:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            with torch.no_grad():
                network.train()(case.calibration)
        return network.eval()

    return change


def separable_start(kernels: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]) -> Way:
    """Returns a way: given depthwise and pointwise kernels, and batch norms measured anew."""

    def change(case: Case, mutation: Mutation) -> nn.Module:
        spec, child = case.spec, mutation.rewrite(case.spec)
        old = mutation.places[0][0]
        depthwise, pointwise = spec.fresh_ids(2)
        weights = {name: tensor for name, tensor in case.state.items() if name.partition(".")[0] != old}
        kernel, mixing = kernels(case.state[f"{old}.weight"], case.generator())
        weights |= {f"{depthwise}.weight": kernel, f"{pointwise}.weight": mixing}
        return network_with(child, reestimated(child, weights, [pointwise], case.calibration))

    return change


def random_kernels(weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """He-normal depthwise and pointwise kernels."""
    out, channels, height, width = weight.shape
    kernel = torch.randn(channels, 1, height, width, generator=generator) * (2 / (height * width)) ** 0.5
    return kernel, torch.randn(out, channels, 1, 1, generator=generator) * (2 / channels) ** 0.5


def mean_kernels(weight: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
    """The mean over the filters as the depthwise kernel, and what of it each filter has (the projection) as the pointwise one."""
    kernel = weight.mean(0, keepdim=True)
    mixing = (weight * kernel).sum((2, 3)) / kernel.square().sum((2, 3)).clamp(min=1e-12)
    return kernel.transpose(0, 1).contiguous(), mixing[:, :, None, None]


def bypass(case: Case, mutation: Mutation) -> nn.Module:
    """Removes a layer and does nothing else."""
    child = mutation.rewrite(case.spec)
    start = mode("simple")(case, mutation).state_dict()  # where widths differ, readers start from a product
    weights = {n: case.state[n] if n in case.state and case.state[n].shape == start[n].shape else start[n] for n in start}
    return network_with(child, weights)


HALVING: dict[str, Way] = {
    "first k": kept_channels(lambda _, __, sizes: {group: torch.arange(size) for group, size in sizes.items()}),
    "L1": kept_channels(lambda case, spec, sizes: largest(spec, case.state, sizes)),
    "L1 + BN (simple)": mode("simple"),
    "torch-pruning": torch_pruning(norms=False),
    "torch-pruning + BN": torch_pruning(norms=True),
    "random + refit + BN": kept_channels(drawn, refit=True),
    "L1 + refit + BN (cheap)": mode("cheap"),
    "greedy + refit + BN (best)": mode("best"),
}
SEPARABLE: dict[str, Way] = {
    "random + BN": separable_start(random_kernels),
    "mean kernel + BN": separable_start(mean_kernels),
    "rank-1 SVD + BN (simple)": mode("simple"),
    "SVD + pointwise refit + BN (cheap)": mode("cheap"),
    "SVD + alternating refits + BN (best)": mode("best"),
}
REMOVAL: dict[str, Way] = {
    "bypass": bypass,
    "bypass + BN (simple)": mode("simple"),
    "refit + BN (cheap)": mode("cheap"),
    "best": mode("best"),
}
OTHERS: dict[str, Way] = {name: mode(name) for name in ("simple", "cheap", "best")}


def changes(case: Case, kind: type[Mutation]) -> list[Mutation]:
    """Returns a mutation for every site; of those that give the same graph, the first."""
    found: dict[str, Mutation] = {}
    for site in kind.sites(case.spec):
        found.setdefault(kind.at(site).rewrite(case.spec).to_json(), kind.at(site))
    return list(found.values())


@dataclass
class Losses:
    """Accuracy lost, in points, and divergence of the logits, by way; one entry for each layer."""

    points: dict[str, list[float]] = field(default_factory=dict)
    nats: dict[str, list[float]] = field(default_factory=dict)

    def add(self, way: str, case: Case, network: nn.Module) -> None:
        """Judges a changed network."""
        accuracy, logits = accuracy_and_logits(network, *case.data.test)
        self.points.setdefault(way, []).append(case.accuracy - accuracy)
        self.nats.setdefault(way, []).append(divergence(case.logits, logits))

    def show(self, title: str) -> None:
        """Prints sums and medians."""
        count = len(next(iter(self.points.values()), []))
        print(f"\n{title}: {count} changes")
        print("| way | points lost, sum | median | divergence, sum | median |\n|---|---|---|---|---|")
        for way, points in self.points.items():
            nats = self.nats[way]
            print(
                f"| {way} | {sum(points):.1f} | {statistics.median(points):.2f} | {sum(nats):.3f} | {statistics.median(nats):.4f} |",
                flush=True,
            )


def compare(case: Case, name: str, kind: type[Mutation], ways: dict[str, Way], limit: int) -> None:
    """Changes every layer in every way, and prints what was lost."""
    losses, mutations = Losses(), changes(case, kind)
    mutations = mutations if len(mutations) <= limit else random.Random(0).sample(mutations, limit)
    for mutation in mutations:
        for way, change in ways.items():
            losses.add(way, case, change(case, mutation))
    losses.show(f"{name}, {kind.kind}")


def compare_removal(case: Case, name: str, limit: int) -> None:
    """The same for layers that go, by whether their input and output have one shape: only then is there a plain bypass."""
    alike: dict[bool, list[Mutation]] = {True: [], False: []}
    for mutation in changes(case, RemoveLayer):
        node_id = mutation.places[0][0]
        alike[case.spec.shapes[node_id] == case.spec.input_shapes(node_id)[0]].append(mutation)
    for same, mutations in alike.items():
        losses = Losses()
        for mutation in mutations[:limit]:
            for way, change in REMOVAL.items():
                losses.add(way, case, change(case, mutation))
        if mutations:
            losses.show(f"{name}, remove_layer, {'one shape' if same else 'another width or size behind (bypass: product of the layers)'}")


def available(ways: dict[str, Way]) -> dict[str, Way]:
    """Leaves out torch-pruning where it isn't installed, and says so."""
    try:
        import torch_pruning  # noqa: F401, PLC0415
    except ImportError:
        print("torch-pruning isn't installed (pip install torch-pruning): left out")
        return {name: way for name, way in ways.items() if not name.startswith("torch-pruning")}
    return ways


def show_cost(case: Case, name: str, limit: int) -> None:
    """Prints what one change costs, by operator and mode: the mean over the layers."""
    with clocked() as whole, torch.no_grad():
        case.network(case.calibration)
    print(f"\n{name}, cost of one change ({len(case.calibration)} calibration images; means and most over the layers)")
    print("| operator | mode | calibration forwards | most | forwards, s | solving, s | rest, s |\n|---|---|---|---|---|---|---|")
    for kind in (PruneFilters, RemoveLayer, RemoveSkip, ShrinkKernel, ToSeparable, MergeLayers):
        mutations = changes(case, kind)[:limit]
        for way in ("simple", "cheap", "best"):
            rows = []
            for mutation in mutations:
                with clocked() as clock:
                    began = time.perf_counter()
                    mode(way)(case, mutation)
                    total = time.perf_counter() - began
                rows.append(
                    (clock.multiply_adds / whole.multiply_adds, clock.passing, clock.solving, total - clock.passing - clock.solving)
                )
            if rows:
                passes, *seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
                most = max(row[0] for row in rows)
                print(
                    f"| {kind.kind} | {way} | {passes:.2f} | {most:.2f} | {' | '.join(f'{value:.3f}' for value in seconds)} |", flush=True
                )


PARTS = ("halving", "separable", "removal", "others", "cost", "memory")


def run(settings: argparse.Namespace) -> None:
    """Trains the networks and runs the parts asked for."""
    data = load_data(settings.data_root, settings.images, settings.tests)
    where = "" if settings.data_root else " (no folder of CIFAR-10 given: --data_root or LEMONADE_DATA_ROOT)"
    print(f"{data.name}{where}: {len(data.train[0])} training and {len(data.test[0])} test images, {settings.epochs} epochs")
    limit = SHORT_SITES if settings.short else 1000
    halving = available(HALVING) if "halving" in settings.parts else {}
    for name in settings.networks:
        for seed in settings.seeds:
            began = time.perf_counter()
            network = trained(name, data, seed, settings.epochs, settings.weights)
            accuracy, logits = accuracy_and_logits(network, *data.test)
            case = Case(network, data, data.calibration(settings.calibration, seed), seed, accuracy, logits)
            title = f"{name}, seed {seed}"
            print(
                f"\n== {title}: {case.spec.parameter_count:,} parameters, {accuracy:.1f} % of test images right; "
                f"{time.perf_counter() - began:.0f} s of training",
                flush=True,
            )
            if "halving" in settings.parts:
                compare(case, title, PruneFilters, halving, limit)
            if "separable" in settings.parts:
                compare(case, title, ToSeparable, SEPARABLE, limit)
            if "removal" in settings.parts:
                compare_removal(case, title, limit)
            if "others" in settings.parts:
                for kind in (RemoveSkip, ShrinkKernel, MergeLayers):
                    compare(case, title, kind, OTHERS, limit)
            if "cost" in settings.parts and seed == settings.seeds[0]:
                show_cost(case, title, limit)
    if "cost" in settings.parts:
        show_proposals(sixty_nodes(), 0.5 if settings.short else 5.0)
    if "memory" in settings.parts:
        show_memory(24, 16, ["prune_filters"]) if settings.short else show_memory(144, 128)


def main() -> None:
    """Parses the command line."""
    root = os.environ.get("LEMONADE_DATA_ROOT")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--data_root", type=Path, default=Path(root) if root else None)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=20_000, help="training images of CIFAR-10")
    parser.add_argument("--tests", type=int, default=2_000, help="test images of CIFAR-10")
    parser.add_argument("--calibration", type=int, default=512, help="calibration images")
    parser.add_argument("--weights", type=Path, help="a folder where trained networks are kept, and looked for")
    parser.add_argument("--short", action="store_true", help="digits, one network and seed, three layers for each operator")
    settings = parser.parse_args()
    if unknown := set(settings.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if settings.data_root is not None and not settings.data_root.is_dir():
        parser.error(f"--data_root {settings.data_root} is no folder")
    settings.parts = settings.parts or list(PARTS)
    if settings.short:
        settings.data_root, settings.networks, settings.seeds, settings.epochs = None, ["plain"], [0], 4
        settings.calibration = 128
    torch.set_num_threads(1)
    run(settings)


if __name__ == "__main__":
    main()
