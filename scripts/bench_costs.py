"""What a transfer of weights costs in passes, seconds and memory, for `bench_morphisms.py`.

Usage: python scripts/bench_costs.py WHAT WIDTH SIZE, in a process of its own: the peak memory of a `pass`, or of transfers of one kind.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_networks import plain
from torch import Tensor, nn

from lightning_lemonade.graph import GraphSpec, build
from lightning_lemonade.morphisms import InsertConvBlock, PruneFilters, RemoveLayer, Site, ToSeparable
from lightning_lemonade.morphisms import prune as prune_module
from lightning_lemonade.morphisms.choice import ReaderMaker
from lightning_lemonade.morphisms.passes import Pass
from lightning_lemonade.morphisms.separable import RefitPair
from lightning_lemonade.morphisms.solve import Refit
from lightning_lemonade.spaces.operators import random_mutation


@dataclass
class Clock:
    """Multiply-adds of layers and seconds of one change."""

    multiply_adds: int = 0
    passing: float = 0.0
    solving: float = 0.0


@contextmanager
def clocked() -> Iterator[Clock]:
    """Counts what passes through layers, and the time for the passes and for solving."""
    clock = Clock()

    def after(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            clock.multiply_adds += output.numel() * module.weight[0].numel()

    def timed(owner: object, name: str, spend: Callable[[float], None]) -> Callable[[], None]:
        original = getattr(owner, name)

        def measured(*arguments: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                spend(time.perf_counter() - start)

        setattr(owner, name, measured)
        return lambda: setattr(owner, name, original)

    def passing(spent: float) -> None:
        clock.passing += spent

    def solving(spent: float) -> None:
        clock.solving += spent

    def inside(spent: float) -> None:
        solving(spent)
        passing(-spent)

    undo = [timed(cls, name, inside) for cls, name in ((Refit, "solve"), (RefitPair, "solve"), (ReaderMaker, "__call__"))]
    undo += [timed(prune_module, "eliminated", solving), timed(Pass, "run_from", passing)]
    handle = nn.modules.module.register_module_forward_hook(after)
    try:
        yield clock
    finally:
        handle.remove()
        for restore in undo:
            restore()


def show_proposals(spec: GraphSpec, seconds: float) -> None:
    """Prints how many proposals a second are drawn, rewritten, validated, counted and hashed."""
    rng, count, began = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        proposal = random_mutation(spec, rng)
        if proposal is not None:
            _ = proposal[1].parameter_count, proposal[1].macs, proposal[1].structural_hash
            count += 1
    rate = count / (time.perf_counter() - began)
    print(
        f"\nproposals on a graph of {len(spec)} nodes (rewrite, validate, parameters, multiply-adds, hash): {rate:.0f} a second", flush=True
    )


def sixty_nodes() -> GraphSpec:
    """Returns the spec on which proposals are timed: the plain network with another block."""
    spec = plain((3, 32, 32), 16)
    while len(spec) < 60:
        spec = InsertConvBlock.at(InsertConvBlock.sites(spec)[-1]).rewrite(spec)
    return spec


MEMORY_KINDS = {kind.kind: kind for kind in (PruneFilters, RemoveLayer, ToSeparable)}


def peak_in_process(what: str, width: int, size: int) -> None:
    """Runs a plain pass, or the transfers of one kind at the three largest layers, and prints by how many MiB the process's peak grew."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = plain((3, 32, 32), width)
    network, batch = build(spec).eval(), torch.randn(size, 3, 32, 32)
    with torch.no_grad():
        network(batch[:2])
    forget_peak()
    before = resident("VmRSS")
    if what == "pass":
        with torch.no_grad():
            network(batch)
    else:
        kind = MEMORY_KINDS[what]
        sites: list[Site] = sorted(kind.sites(spec), key=lambda site: network.get_submodule(site[0]).weight.numel())
        state = network.state_dict()
        for site in sites[-3:]:
            mutation = kind.at(site)
            mutation.transfer(spec, state, mutation.rewrite(spec), batch, torch.Generator().manual_seed(0))
    print(f"{resident('VmHWM') - before:.1f} {4 * spec.parameter_count / 2**20:.1f} {spec.parameter_count}")


def resident(what: str) -> float:
    """Returns this process's resident size (VmRSS), or the largest so far (VmHWM), in MiB; only the latter where there is no /proc."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith(what))
        return int(line.split()[1]) / 2**10
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak() -> None:
    """Lets the largest resident size start again from the present one, where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def show_memory(width: int, size: int, kinds: Iterable[str] = tuple(MEMORY_KINDS)) -> None:
    """Prints the peak memory of a plain pass and of transfers, each in a fresh process, with two settings of the C library's allocator."""
    eager = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}
    rows = []
    for what in ("pass", *kinds):
        row = []
        for setting in (eager, {}):
            command = [sys.executable, __file__, what, str(width), str(size)]
            result = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **setting})
            grown, weights, parameters = result.stdout.split()
            row.append(float(grown))
        rows.append(f"| {what} | {row[0]:.0f} | {row[1]:.0f} |")
    print(f"\npeak memory, {int(parameters):,} parameters ({weights} MiB), {size} calibration images: growth of a process, MiB")
    print("| what (transfers: the three largest layers, one after the other) | freed blocks returned at once | default allocator |")
    print("|---|---|---|", *rows, sep="\n", flush=True)


if __name__ == "__main__":
    peak_in_process(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
