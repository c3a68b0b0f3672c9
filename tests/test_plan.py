"""Dry runs: what a plan says is what a search does, and nothing else happens."""

import os
import random
import signal
import socket
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from quick_searches import TooLarge

from lightning_lemonade import LemonadeTrainer, RayExecutor, cli
from lightning_lemonade import plan as plan_module
from lightning_lemonade.callback import SearchCallback
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError, DataError, SearchError
from lightning_lemonade.executors import InlineExecutor, places
from lightning_lemonade.executors.places import places_of
from lightning_lemonade.history import History
from lightning_lemonade.module import LemonadeModule
from lightning_lemonade.plan import Plan
from lightning_lemonade.settings import SearchSettings

QUICK = {"algorithm": "paper", "epochs": 1, "initial_epochs": 1, "proposals": 4, "accepted": 2}
HERE = torch.cuda.is_available() or torch.backends.mps.is_available()
no_gpu = pytest.mark.skipif(HERE, reason="what a plan says where there is no GPU")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(data=None, **arguments) -> Plan:
    return LemonadeTrainer(**{"accelerator": "cpu", **QUICK, **arguments}).plan(data or DigitsDataModule())


def test_a_plan_counts_what_a_search_does():
    class Count(SearchCallback):
        def on_generation_end(self, search, generation):
            accepted.append(generation.accepted)

    accepted: list[int] = []
    data = DigitsDataModule()
    trainer = LemonadeTrainer(accelerator="cpu", max_generations=2, run_dir="run", callbacks=[Count()], keep_weights="all", **QUICK)
    plan = trainer.plan(data)
    assert os.listdir() == []
    trainer.search(data)  # goes on with the same object, which the plan has set up and torn down
    starts = [candidate for candidate in History.open(Path("run")).candidates() if candidate.parent is None]
    assert [(start.params, start.macs) for start in plan.starts] == [(c.objectives["params"], c.objectives["macs"]) for c in starts]
    assert (plan.generations, plan.children) == (len(accepted) - 1, sum(accepted)) == (2, 8)
    assert plan.paces[""].batches == len(data.train_dataloader()) == 15
    assert plan.paces[""].samples == 64
    again = trainer.plan(data)
    assert any("run holds a run already" in note for note in again.notes)


def test_memory_is_that_of_the_networks_that_are_begun_with():
    short, long = (planned(algorithm="gain", initial_epochs=100, max_time=time) for time in ("00:00:00:01", "01:00:00:00"))
    assert short.starts[0].params < long.starts[0].params
    assert short.memory < long.memory


def test_a_plan_for_several_processes_begins_as_a_search_of_them_does():
    plan = planned(algorithm="gain", max_time="00:00:00:01", devices=2, strategy="ddp")
    assert [start.params for start in plan.starts] == [1240, 2665, 4630, 7135]


def test_a_plan_leaves_everything_as_it_was(tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    threads, environment = torch.get_num_threads(), dict(os.environ)
    plan = planned(DigitsDataModule(num_workers=1), threads_per_child=1)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)
    assert not torch.distributed.is_initialized()
    assert list(tmp_path.iterdir()) == []
    assert plan.step > 0
    assert plan.child_seconds > 0


def test_times_add_up():
    plan = planned(max_generations=3)
    pace = plan.paces[""]
    assert max(start.seconds for start in plan.starts) >= 15 * pace.step + pace.validation
    assert plan.seconds == pytest.approx(sum(start.seconds for start in plan.starts) + 3 * 2 * plan.child_seconds)
    assert plan.device_hours == pytest.approx(plan.seconds / 3600 * torch.get_num_threads())
    assert plan.child_seconds == pytest.approx(sum(start.child_seconds for start in plan.starts) / 4)


def test_a_budget_of_time():
    plan = planned(max_time="00:01:00:00")
    assert 3600 <= plan.seconds < 3600 + 2 * plan.child_seconds + 1e-6  # the last generation is finished
    assert plan.generations == -(-(3600 - sum(start.seconds for start in plan.starts)) // (2 * plan.child_seconds))
    both = planned(max_time="00:01:00:00", max_generations=1)
    assert both.generations == 1
    assert "1 generations or 60 min, whichever comes first" in str(both)


class Tiny(LemonadeModule):
    """One linear layer, whose memory is known."""

    def __init__(self, spec, training=None):
        super().__init__(spec, training)
        self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def test_memory_is_what_a_hand_computes(monkeypatch):
    monkeypatch.setattr(Tiny, "forward", lambda self, x: self.network(x))
    plan = planned(DigitsDataModule(batch_size=64), module=Tiny)
    weights = 4 * (64 * 10 + 10)
    momentum, gradients = weights, weights
    samples, logits, classes = 4 * 64 * 64, 4 * 64 * 10, 8 * 64
    buffers = 2 * 64  # of metrics, at most
    least = weights + gradients + momentum + samples + logits
    assert least <= plan.memory <= least + classes + buffers
    assert plan.paces[""].gradients == gradients


def test_memory_of_a_network_grows_with_the_batch():
    small, large = (planned(DigitsDataModule(batch_size=size)).memory for size in (16, 64))
    largest = max(planned().starts, key=lambda start: start.macs)
    assert 2 < large / small < 4  # weights stay the same
    assert large > 3 * 4 * largest.params


def test_the_batch_is_shared_by_the_devices():
    plan = planned(DigitsDataModule(batch_size=50), devices=2, strategy="ddp")
    assert (plan.places.processes, plan.places.slots, plan.places.devices) == (2, 1, 2 * torch.get_num_threads())
    assert (plan.paces[""].samples, plan.paces[""].batches) == (25, 18)
    assert "25 samples on each of 2 devices" in str(plan)
    assert "with 2 processes together (DDP)" in str(plan)


@no_gpu
def test_gpus_that_are_elsewhere():
    plan = planned(accelerator="gpu", devices=4, num_nodes=2, strategy="ddp", precision="16-mixed", sync_batchnorm=True)
    text = " ".join(str(plan).split())
    assert "accelerator gpu isn't on this machine: measured on its CPU" in text
    assert (plan.places.processes, plan.places.devices, plan.paces[""].samples) == (8, 8, 8)
    assert "GPU-hours at the pace of this machine's CPU" in text
    assert "2 machines" in text
    plan = planned(accelerator="cuda", devices=-1)
    assert plan.places.processes == 1
    assert any("this plans with one" in note for note in plan.notes)


def test_two_tasks():
    plan = planned({"a": DigitsDataModule(), "b": DigitsDataModule(batch_size=128)}, objectives="error,params")
    assert {task: pace.batches for task, pace in plan.paces.items()} == {"a": 15, "b": 8}
    assert "b: 8 training steps" in str(plan)
    assert plan.step == plan.paces["a"].step + plan.paces["b"].step


class NoValidation(DigitsDataModule):
    def val_dataloader(self):
        raise OSError("no such file")


class Broken(LemonadeModule):
    def loss(self, logits, target):
        raise RuntimeError("no such kernel")


def test_a_starting_network_that_cannot_be_trained_is_told_also_where_time_chooses(monkeypatch):
    tried = []
    pace_of = plan_module.pace_of
    monkeypatch.setattr(plan_module, "pace_of", lambda *known: tried.append(known[2].parameter_count) or pace_of(*known))
    with pytest.raises(SearchError, match="7,135 parameters can't be trained: exception: RuntimeError: too large"):
        planned(algorithm="gain", max_time="00:01:00:00", module=TooLarge)
    assert tried == [1240, 4630, 7135]  # each once


@pytest.mark.parametrize(
    ("arguments", "data", "error", "words"),
    [
        ({"limits": {"params": (1e8, 1e9)}}, DigitsDataModule(), SearchError, "no starting network meets the limits"),
        ({}, NoValidation(), DataError, "no such file"),
        ({}, "digits", DataError, "needs a LightningDataModule"),
        ({"module": Broken}, DigitsDataModule(), SearchError, "can't be trained: exception: RuntimeError: no such kernel"),
        ({"strategy": "dpp", "devices": 2}, DigitsDataModule(), ConfigurationError, "Lightning refuses the strategy"),
        ({"accelerator": "gpus"}, DigitsDataModule(), ConfigurationError, "accelerator='gpus' is unknown"),
        ({"devices": "many"}, DigitsDataModule(), ConfigurationError, "devices='many'"),
        ({"executor": "ray", "num_nodes": 2}, DigitsDataModule(), ConfigurationError, "num_nodes"),
        ({"metric": "val_f1"}, DigitsDataModule(), Exception, "val_f1"),
    ],
)
def test_errors_are_told_as_a_search_does(arguments, data, error, words):
    with pytest.raises(error, match=words):
        planned(data, **arguments)


def test_where_children_may_be_trained_longer_the_plan_says_so():
    def told(**arguments):
        return any("children may be trained 3 times as long" in note for note in planned(**arguments).notes)

    assert told(max_time="00:00:10:00", algorithm="gain")
    assert not told(max_generations=2, algorithm="gain")
    assert not told(max_time="00:00:10:00", algorithm="gain", inherit=False)
    assert not told(max_time="00:00:10:00")


def test_ray_on_this_machine_begins_no_cluster(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a cluster was begun"))
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    plan = planned(executor=RayExecutor(cpus_per_child=2), accepted=4, max_generations=1)
    assert (plan.places.slots, plan.places.devices, plan.places.unit) == (3, 2, "core")
    longest = max(start.seconds for start in plan.starts)
    assert longest + 2 * plan.child_seconds - 1e-9 <= plan.seconds <= 2 * longest + 2 * plan.child_seconds + 1e-9  # in two rounds each
    assert plan.device_hours == pytest.approx(plan.seconds / 3600 * 6)
    assert "3 children at a time by Ray, each with 2 CPU" in str(plan)
    idle = planned(executor=RayExecutor(), accepted=4)
    assert any("leaves room for 2 more children" in note for note in idle.notes)
    assert not any("leaves room" in note for note in planned(executor=RayExecutor(), accepted=4, asynchronous=True).notes)


def test_a_cluster_that_is_seen(monkeypatch):
    gpus = [{"CPU": 16.0, "GPU": 3.0, "accelerator_type:A100": 1.0}, {"CPU": 2.0, "GPU": 4.0}]
    monkeypatch.setattr(places, "_nodes_of_cluster", lambda address: (gpus, "the Ray cluster 'auto'", []))
    found = places_of(RayExecutor(address="auto", cpus_per_child=2), {}, 1)
    assert (found.slots, found.devices, found.processes, found.unit) == (4, 1, 1, "GPU")
    assert found.has == "the Ray cluster 'auto': 2 machines with 18 cores and 7 GPUs (A100)"
    assert places_of(RayExecutor(gpus_per_child=0.5), {"accelerator": "gpu"}, 1).slots == 8
    assert places_of(RayExecutor(gpus_per_child=0.5, workers=3), {"accelerator": "gpu"}, 1).slots == 3
    together = places_of(RayExecutor(), {"accelerator": "gpu", "devices": 2}, 1)
    assert (together.slots, together.processes, together.devices) == (3, 2, 2)  # a child never spans machines
    assert places_of(RayExecutor(), {"accelerator": "cpu"}, 1).slots == 18


def test_a_cluster_without_gpus(monkeypatch):
    monkeypatch.setattr(places, "_nodes_of_cluster", lambda address: ([{"CPU": 4.0}], "the Ray cluster 'auto'", []))
    monkeypatch.setattr(places, "_accelerator", lambda arguments: ("cuda", "cuda"))  # this machine has some
    found = places_of(RayExecutor(address="auto"), {}, 1)
    assert (found.accelerator, found.here, found.slots, found.notes) == ("cpu", "cpu", 4, [])
    found = places_of(RayExecutor(address="auto"), {"accelerator": "gpu"}, 1)
    assert (found.accelerator, found.slots) == ("cuda", 1)
    assert "has no GPU: there a search would refuse" in found.notes[0]


def test_ray_leaves_no_handler_behind(monkeypatch):
    import ray

    def init(**_):
        signal.signal(signal.SIGTERM, lambda *_: None)
        raise ConnectionError("it lets nobody in")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "it lets nobody in" in str(places._nodes_of_cluster(address))
        assert signal.getsignal(signal.SIGTERM) == before
        with pytest.raises(ConfigurationError, match="it lets nobody in"):
            RayExecutor(address=address)._connect()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cluster_that_is_not_reached(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in ("auto", "127.0.0.1:1"):
        found = places_of(RayExecutor(address=address, gpus_per_child=0.5), {"accelerator": "gpu"}, 1)
        assert (found.slots, found.devices, found.unit) == (1, 0.5, "GPU")
        assert "can't be reached from here" in found.notes[0]
        assert "counts with 1 child at a time" in found.notes[1]


def test_an_executor_of_a_user():
    class Mine(InlineExecutor):
        pass

    class Own(RayExecutor):
        pass

    assert places_of(Mine(), {"accelerator": "cpu"}, 1).slots == 1
    assert isinstance(LemonadeTrainer(executor=Own()).settings, SearchSettings)


def test_the_command_line(capsys, tmp_path):
    small = ["--epochs", "1", "--initial_epochs", "1", "--max_generations", "2", "--accelerator", "cpu"]
    assert cli.main(["search", *small, "--dry_run", "--run_dir", "run", "--wandb", "offline"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dry run: ")
    assert "2 generations of 8 children, 20 networks in all" in out
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["search", "--accelerator", "gpus", "--dry_run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_resumed_run_can_be_planned(capsys):
    small = ["--epochs", "1", "--initial_epochs", "1", "--proposals", "2", "--accepted", "1", "--max_generations", "1"]
    assert cli.main(["search", *small, "--run_dir", "run", "--accelerator", "cpu"]) == 0
    files = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    capsys.readouterr()
    assert cli.main(["resume", "run", "--dry_run", "--max_generations", "3", "--executor", "RayExecutor", "--executor.workers", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "3 generations of 1 children" in out
    assert "run holds a run already" in out
    assert "1 child at a time by Ray" in out
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == files


@pytest.mark.parametrize(
    ("names", "prints"), [({"RANK": "1"}, False), ({"SLURM_PROCID": "3"}, False), ({"RANK": "0", "SLURM_PROCID": "1"}, True)]
)
def test_only_rank_0_of_a_launcher_plans(names, prints, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": names.get("RANK", "0"), **names}.items():
        monkeypatch.setenv(name, value)
    arguments = ["--devices", "2", "--num_nodes", "2", "--strategy", "ddp", "--accelerator", "cpu", "--initial_epochs", "1"]
    assert cli.main(["search", "--dry_run", *arguments]) == 0
    out = capsys.readouterr().out
    assert ("4 processes together" in " ".join(out.split())) is prints
    assert bool(out) is prints
    assert not torch.distributed.is_initialized()


def test_the_processes_of_torchrun_print_one_plan(tmp_path):
    script = tmp_path / "lemonade.py"
    script.write_text("import sys; from lightning_lemonade.cli import main; sys.exit(main())")
    arguments = ["search", "--dry_run", "--devices", "2", "--strategy", "ddp", "--accelerator", "cpu", "--run_dir", "run"]
    done = processes.run_ranks(script, *arguments, like_torchrun=True, cwd=tmp_path)
    assert [rank.returncode for rank in done] == [0, 0], done
    assert "".join(rank.stdout for rank in done).count("dry run: ") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["lemonade.py"]


def test_a_sigterm_ends_it_and_is_no_failure_of_the_network():
    class Told(DigitsDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            if self.trainer is not None and self.trainer.training:
                signal.raise_signal(signal.SIGTERM)
            return super().on_after_batch_transfer(batch, dataloader_idx)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException) as told:
        LemonadeTrainer(max_generations=1, accelerator="cpu").plan(Told())
    assert told.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
