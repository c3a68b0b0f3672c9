"""Kills, stops and disconnects the workers of a search on a Ray cluster at random moments, and sees that nothing is lost.

    python scripts/chaos_workers.py --kills 20
    python scripts/chaos_workers.py --kills 6 --stops 2 --nodes 2

A search without any of that, in one process, comes first: the other one must give the same history, bit for bit. With `--nodes` the cluster
consists of several nodes of one core each (real ones, with a scheduler and an object store each, on this machine), of which one is lost in
the middle of the search and another one joins later.
"""

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.cluster_utils import Cluster

from lightning_lemonade import LemonadeTrainer, RayExecutor, SearchCallback
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.history import History

SETTINGS: dict[str, Any] = {
    "algorithm": "paper",
    "proposals": 12,
    "accepted": 6,
    "epochs": 1,
    "initial_epochs": 2,
    "accelerator": "cpu",
    "threads_per_child": 1,
    "keep_weights": "all",
}


@dataclass
class Killer(SearchCallback):
    """Does harm to processes of this session's Ray cluster at random moments, from the time the first child is evaluated.

    Attributes:
        kills: how many processes are ended by SIGKILL: workers, those that wait, and the one that hears signs of life.
        stops: how many workers are stopped by SIGSTOP: they are there and answer nothing.
        cluster: whose last node is lost after half the kills, if there is one.
        done: what was done to what.
    """

    kills: int
    stops: int
    draws: random.Random
    cluster: Cluster | None = None
    done: Counter[str] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def on_candidate_end(self, search: Any, candidate: Any) -> None:  # noqa: ANN401
        """Begins with the first child."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def on_search_end(self, search: Any) -> None:  # noqa: ANN401
        """Ends."""
        self._over.set()

    def _work(self) -> None:
        plan = ["kill"] * self.kills + ["stop"] * self.stops
        self.draws.shuffle(plan)
        for i, action in enumerate(plan):
            if self._over.wait(self.draws.uniform(0.1, 4.0)):
                return
            if self.cluster is not None and i == len(plan) // 2:
                self._lose_a_node(self.cluster)
            self._harm(action)

    def _harm(self, action: str) -> None:
        processes = [process for process in psutil.process_iter(["cmdline"]) if _of_ray(process)]
        if action == "stop":
            processes = [process for process in processes if "Worker" in process.info["cmdline"][0]]
        if processes:
            victim = self.draws.choice(processes)
            victim.send_signal(signal.SIGSTOP if action == "stop" else signal.SIGKILL)
            self.done[f"{action} {victim.info['cmdline'][0]}"] += 1

    def _lose_a_node(self, cluster: Cluster) -> None:
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        self.done["a node lost, another one joined"] += 1


def _of_ray(process: psutil.Process) -> bool:
    """Returns whether a process is one that Ray has begun for a search: not one of its agents, without which a node counts as lost."""
    command = process.info["cmdline"]
    return bool(command) and command[0].startswith(("ray::Worker", "ray::Beats", "ray::IDLE"))


def campaign(
    *, kills: int, stops: int, nodes: int, generations: int, seed: int, folder: Path, retries: int = 50
) -> tuple[Counter[str], list[str]]:
    """Runs a search undisturbed and another one disturbed.

    Returns:
        What was done to the second one, and what of it was lost.
    """
    settings = SETTINGS | {"max_generations": generations, "seed": seed}
    began = time.monotonic()
    LemonadeTrainer(run_dir=folder / "calm", **settings).search(DigitsDataModule())
    alone = time.monotonic() - began
    cluster = _cluster(nodes)
    killer = Killer(kills, stops, random.Random(seed), cluster)
    executor = RayExecutor(max_retries=retries, heartbeat_timeout=20.0)
    began = time.monotonic()
    try:
        LemonadeTrainer(run_dir=folder / "disturbed", executor=executor, callbacks=[killer], **settings).search(DigitsDataModule())
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
    calm, disturbed = (History.open(folder / name) for name in ("calm", "disturbed"))
    print(f"undisturbed, in one process: {alone:.0f} s; disturbed: {time.monotonic() - began:.0f} s")
    return killer.done, lost(calm, disturbed)


def _cluster(nodes: int) -> Cluster | None:
    if not nodes:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        return None
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    return cluster


def lost(calm: History, disturbed: History) -> list[str]:
    """Returns what a disturbed search has otherwise than an undisturbed one."""
    others = {candidate.id: candidate for candidate in disturbed.candidates()}
    problems = []
    for candidate in calm.candidates():
        other = others.get(candidate.id)
        if other is None:
            problems.append(f"candidate {candidate.id} is missing")
        elif other.state != candidate.state:
            problems.append(
                f"candidate {candidate.id} is {other.state} ({other.failure and other.failure.text}) instead of {candidate.state}"
            )
    if not problems and calm.digest() != disturbed.digest():
        problems.append("the digests differ")
    return problems


def main() -> int:
    """Runs it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        done, problems = campaign(**vars(arguments), folder=Path(folder))
    for what, times in sorted(done.items()):
        print(f"{times:4d} {what}")
    print(f"losses: {len(problems)}", *problems, sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
