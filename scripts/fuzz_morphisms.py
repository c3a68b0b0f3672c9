"""Chains of random mutations on random graphs, checked step by step: see `lightning_lemonade.testing`.

Usage: python scripts/fuzz_morphisms.py [--dags 1000] [--seed 0] [--chain 20] [--first 0]

Every other graph gets exact mutations only; the others get any. After each step: the mutation survives JSON; the graph's half is pure and
gives a valid graph that builds; the weights' half leaves the parent and all that is untouched alone, bit for bit, and draws from the given
generator only; an exact one keeps the function (eval mode 1e-9, train mode on the calibration batch 1e-10, relative, float64), also over
the whole chain of exact ones (1e-9); a training step works. Every new unit has a gradient by the second backward pass after the first
mutation, and by pass k + 1 after a chain of k exact ones. Prints counts for each kind, the worst differences, and every failure with what
repeats it; the exit code is 1 if there is one.
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import torch

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import KINDS, Mutation
from lightning_lemonade.morphisms.solve import MODES
from lightning_lemonade.testing import BrokenMorphism, random_spec
from lightning_lemonade.testing.properties import (
    BATCH,
    EVAL_TOLERANCE,
    check_data,
    check_function,
    check_learning,
    check_rewrite,
    check_training,
    check_transfer,
)
from lightning_lemonade.testing.states import calibrated, outputs, relative_difference, sample_batch, uneven_state, without_dropout

ARGUMENTS: dict[str, list[dict[str, object]]] = {
    "widen": [{"factor": 1.3}, {}, {"width": 9}, {"init": "he"}, {"init": "duplicate"}, {"factor": 3, "init": "duplicate"}],
    "insert_conv_block": [{}, {"kernel_size": 1}, {"kernel_size": 5}],
    "insert_separable_block": [{}, {"kernel_size": 5}],
    "insert_bottleneck": [{}, {"reduction": 1}],
    "insert_squeeze_excite": [{}, {"reduction": 1}],
    "grow_kernel": [{}, {"by": 4}],
    "prune_filters": [
        *({"fraction": fraction, "mode": mode} for fraction in (0.25, 0.5, 0.9) for mode in MODES),
        *({"fraction": None, "width": 2, "mode": mode} for mode in MODES),
    ],
    **{
        name: [{"mode": mode} for mode in MODES]
        for name in ("remove_layer", "remove_skip", "shrink_kernel", "to_separable", "merge_layers")
    },
}
"""What arguments are drawn from, where not only the defaults are."""
MAX_PARAMETERS = 30_000


@dataclass
class Tally:
    """What was checked.

    Attributes:
        steps: mutations by kind.
        evals: the largest difference in eval mode by kind, over one step.
        trains: the same in train mode on the calibration batch.
        chains: the largest difference in eval mode by length of an exact chain.
        judged: chains whose gradients could be judged, and those whose couldn't.
        failures: texts.
    """

    steps: Counter[str] = field(default_factory=Counter)
    evals: dict[str, float] = field(default_factory=dict)
    trains: dict[str, float] = field(default_factory=dict)
    chains: dict[int, float] = field(default_factory=dict)
    judged: Counter[bool] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def drawn(spec: GraphSpec, rng: random.Random, *, exact: bool) -> Mutation | None:
    """A random mutation with random arguments that applies; every kind that applies is equally likely."""
    for name in rng.sample(sorted(KINDS), len(KINDS)):
        kind = KINDS[name]
        sites = kind.sites(spec) if kind.exact or not exact else []
        if not sites:
            continue
        mutation = kind.at(rng.choice(sites), **rng.choice(ARGUMENTS.get(name, [{}])))
        try:
            mutation.rewrite(spec)
        except MutationError:  # a width that the layer has already, a kernel that would only see padding
            continue
        return mutation
    return None


def run(number: int, seed: int, chain: int, tally: Tally) -> None:
    """One graph and its chain."""
    rng = random.Random(f"{seed}-{number}")
    spec = without_dropout(random_spec(rng, steps=rng.randint(0, 10)))
    if not spec.parameter_count:
        return
    exact = number % 2 == 0
    x = sample_batch(spec, number, BATCH)
    state = calibrated(spec, uneven_state(spec, number), x)
    first, first_state, other, made = spec, state, sample_batch(spec, number + 1), []
    for step in range(rng.randint(1, chain)):
        mutation = drawn(spec, rng, exact=exact)
        if mutation is None or spec.parameter_count > MAX_PARAMETERS:
            break
        check_data(mutation, spec)
        child = check_rewrite(mutation, spec)
        weights = check_transfer(mutation, spec, state, child, x, step)
        tally.steps[mutation.kind] += 1
        if mutation.exact:
            for table, difference in zip(
                (tally.evals, tally.trains), check_function(mutation, spec, state, child, weights, x), strict=True
            ):
                table[mutation.kind] = max(table.get(mutation.kind, 0.0), difference)
        check_training(mutation, spec, state, weights, x, step)
        made.append(mutation)
        if exact:
            difference = relative_difference(outputs(first, first_state, other), outputs(child, weights, other))
            tally.chains[len(made)] = max(tally.chains.get(len(made), 0.0), difference)
            if difference > EVAL_TOLERANCE:
                raise BrokenMorphism("exact", f"the output differs by {difference:.1e} after {len(made)} mutations", mutation, spec)
        spec, state = child, weights
    if made:
        tally.judged[check_learning(made[:1], first, number)] += 1
    if exact and len(made) > 1:
        tally.judged[check_learning(made, first, number)] += 1


def report(tally: Tally) -> None:
    """Prints the tables and the failures."""
    print(f"{'kind':24}{'steps':>7}{'worst in eval':>15}{'worst in train':>16}")
    for kind, count in sorted(tally.steps.items()):
        worst = [f"{table[kind]:.1e}" if kind in table else "-" for table in (tally.evals, tally.trains)]
        print(f"{kind:24}{count:7}{worst[0]:>15}{worst[1]:>16}")
    if tally.chains:
        print(f"exact chains: longest {max(tally.chains)}, worst difference from the first parent {max(tally.chains.values()):.1e}")
    print(f"gradients: judged {tally.judged[True]} times, not to be judged {tally.judged[False]} times")
    print(f"failures: {len(tally.failures)}")
    for text in tally.failures:
        print(text)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dags", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chain", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph, to repeat one")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tally, began = Tally(), time.perf_counter()
    for number in range(settings.first, settings.first + settings.dags):
        try:
            run(number, settings.seed, settings.chain, tally)
        except Exception as error:  # whatever it is: it is a failure, and the others are still checked
            tally.failures.append(f"graph {number}: {type(error).__name__}: {error}")
        if sys.stderr.isatty():
            print(f"\r{number + 1 - settings.first} of {settings.dags}", end="", file=sys.stderr)
    report(tally)
    print(f"{settings.dags} graphs in {time.perf_counter() - began:.0f} s")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
