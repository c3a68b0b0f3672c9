"""Children are evaluated by the processes of a real Ray cluster on this machine."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import ray
import torch

from lightning_lemonade import LemonadeModule, LemonadeTrainer, RayExecutor, SearchCallback
from lightning_lemonade.beats import Beats
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError, DataError, SearchError
from lightning_lemonade.evaluation import EvaluationRequest
from lightning_lemonade.executors import ray_executor
from lightning_lemonade.executors.worker import BEAT, Worker
from lightning_lemonade.history import History
from lightning_lemonade.search import Child
from lightning_lemonade.spaces import ConvNetSpace
from lightning_lemonade.testing.executors import check_executor

TINY = {
    "algorithm": "paper",
    "max_generations": 2,
    "proposals": 9,
    "accepted": 3,
    "epochs": 1,
    "initial_epochs": 1,
    "calibration_size": 64,
    "limit_train_batches": 4,
    "accelerator": "cpu",
    "threads_per_child": 1,
}
SECOND = ConvNetSpace().initial((1, 8, 8), 10)[1].structural_hash


def search(run_dir, executor="inline", data=None, **settings):
    LemonadeTrainer(run_dir=run_dir, executor=executor, **TINY | settings).search(data or DigitsDataModule())
    return History.open(run_dir)


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    return search(tmp_path_factory.mktemp("inline") / "run")


def test_a_synchronous_search_equals_one_in_this_process_bit_for_bit(cluster, inline, tmp_path):
    class Downloading(DigitsDataModule):
        """Workers that didn't wait for `prepare_data` would find no file."""

        file = tmp_path / "downloaded"

        def prepare_data(self):
            while not workers_of(psutil.Process()):
                time.sleep(0.5)
            time.sleep(2)
            self.file.touch()

        def setup(self, stage):
            assert self.file.exists()
            super().setup(stage)

    executor = RayExecutor()
    by_ray = search(tmp_path / "run", executor, Downloading())
    assert by_ray.digest() == inline.digest()
    assert not left_of(workers_of(psutil.Process()))  # the cluster is the program's own, its workers aren't
    executor.close()


def test_a_child_whose_worker_always_dies_fails_and_the_others_go_on(cluster, tmp_path):
    class Dying(LemonadeModule):
        def training_step(self, batch, batch_idx):
            if self.spec.structural_hash == SECOND:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().training_step(batch, batch_idx)

    executor = RayExecutor(max_retries=0, workers=1)

    class Second(SearchCallback):
        """Another search with the executor of this one, which goes on."""

        def on_generation_start(self, info, generation):
            with pytest.raises(ConfigurationError, match="evaluates the children of another search"):
                search(tmp_path / "second", executor)

    history = search(tmp_path / "run", executor, module=Dying, max_generations=1, accepted=1, callbacks=[Second()])
    failed = [candidate for candidate in history.candidates() if candidate.failure]
    assert [(candidate.id, candidate.failure.kind) for candidate in failed] == [(1, "worker_lost")]
    assert "lost once" in failed[0].failure.text
    assert len(history.candidates()) == 4 + 1


def test_several_processes_train_each_child_together(cluster, tmp_path):
    class Together(LemonadeModule):
        def on_train_start(self):
            assert torch.distributed.get_world_size() == 2

    settings = {"max_generations": 1, "accepted": 1, "devices": 2, "strategy": "ddp", "limits": {"params": 3000}}
    history = search(tmp_path / "run", RayExecutor(), module=Together, **settings)
    assert {candidate.state for candidate in history.candidates()} == {"evaluated"}


def test_it_keeps_the_contract(cluster):
    check_executor(lambda: RayExecutor(workers=1))
    assert not left_of(workers_of(psutil.Process()))


def test_a_worker_that_nobody_hears_ends_itself(cluster):
    beats = ray.remote(Beats).options(num_cpus=0, max_restarts=-1).remote()
    worker = ray.remote(Worker).remote(0, beats)
    ray.get(worker.place.remote())
    ray.kill(beats, no_restart=False)
    time.sleep(4 * BEAT)
    assert ray.get(worker.place.remote())  # who hears it is back
    ray.kill(beats)
    assert not left_of(workers_of(psutil.Process()))


def test_other_data_on_another_machine_is_told(cluster, tmp_path):
    class Elsewhere(DigitsDataModule):
        here = os.getpid()

        def on_after_batch_transfer(self, batch, dataloader_idx):
            x, y = super().on_after_batch_transfer(batch, dataloader_idx)
            return (x if os.getpid() == self.here else x + 1), y

    with pytest.raises(DataError, match=r"isn't the search's: its \w+ batch differs"):
        search(tmp_path / "run", RayExecutor(workers=1), Elsewhere())


class Impatient(RayExecutor):
    def open(self, ranks, evaluator):
        super().open(ranks, evaluator)
        self._set_up_limit = 3


@pytest.mark.parametrize(
    ("executor", "action", "why"),
    [
        (RayExecutor, lambda: os._exit(1), "RayError|ActorDied"),  # with all the time it needs until it dies
        (Impatient, lambda: time.sleep(1000), "its data wasn't set up"),
    ],
    ids=["die", "hang"],
)
def test_workers_that_are_never_ready_end_the_search(cluster, tmp_path, monkeypatch, executor, action, why):
    monkeypatch.setattr(ray_executor, "FALSE_STARTS", 1)

    class Deadly(DigitsDataModule):
        here = os.getpid()

        def setup(self, stage):
            if os.getpid() != self.here:
                action()
            super().setup(stage)

    with pytest.raises(SearchError, match=f"workers in a row were lost before they were ready, the last one with: .*({why})"):
        search(tmp_path / "run", executor(workers=1), Deadly())


@pytest.mark.parametrize(
    ("executor", "settings", "text"),
    [
        ({"cpus_per_child": 3}, {}, "a child needs 3 CPU and 0 GPU, and the cluster has 2 CPU"),
        ({}, {"accelerator": "gpu"}, "needs GPUs, and the children get none"),
        ({"gpus_per_child": 0.5}, {"accelerator": "gpu", "devices": 2}, "a child has one process for each GPU"),
        ({}, {"num_nodes": 2}, "num_nodes"),
        ({}, {"strategy": "ddp"}, "one device for each child"),
        ({}, {"devices": "many"}, "devices='many'"),
    ],
)
def test_what_the_cluster_cannot_give_is_told_at_once(cluster, tmp_path, executor, settings, text):
    with pytest.raises(ConfigurationError, match=text):
        search(tmp_path / "run", RayExecutor(**executor), **settings)
    assert not (tmp_path / "run").exists()


def test_without_gpus_children_take_none_that_their_machine_has():
    assert ray_executor._of_one_node({}, 1, 0.0)["accelerator"] == "cpu"
    assert ray_executor._of_one_node({"accelerator": "mps"}, 1, 0.0)["accelerator"] == "mps"
    assert "accelerator" not in ray_executor._of_one_node({}, 1, 0.5)


def test_what_is_done_is_not_late_however_late_it_is_looked_at(cluster):
    class Fake:
        up = ready = True

        def __init__(self, request, seconds):
            self.request, self.references = request, [answer.remote(seconds)]
            self.since = time.monotonic() - 1000
            self.killed = False

        def kill(self):
            self.killed = True

    @ray.remote(num_cpus=0)
    def answer(seconds):
        time.sleep(seconds)

    spec = ConvNetSpace().initial((1, 8, 8), 10)[0]
    done, late = (Fake(EvaluationRequest(Child(spec, 0, None, (), {}, id=number), None, {}), number * 1000) for number in range(2))
    ray.get(done.references)
    executor = RayExecutor()
    executor._crews, executor._limit, executor._asked_beats = [done, late], 10, []
    executor._heard = executor._counted = executor._started = time.monotonic()
    executor._gpus, executor._prepared = 0.0, "here"
    executor.workers, executor._set_up_limit = 1, 10_000
    executor._recount = list
    executor._look_around()
    assert not done.killed
    assert late.killed
    assert executor._results.popleft().outcome.failure.kind == "time_limit"
    ray.cancel(late.references[0], force=True)


def test_fractions_are_counted_as_ray_counts_them():
    assert [ray_executor.times(need, 1.0) for need in (0.1, 0.2, 0.3, 0.5, 1.0)] == [10, 5, 3, 2, 1]


def test_what_cannot_be_sent_is_told_at_once(cluster, tmp_path):
    data = DigitsDataModule()
    data.file = (tmp_path / "open").open("w")
    with pytest.raises(ConfigurationError, match="can't be sent to other processes"):
        search(tmp_path / "run", RayExecutor(), data)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_retries": -1}, "max_retries of RayExecutor must be a number of at least 0, got -1"),
        ({"gpus_per_child": -0.5}, "gpus_per_child"),
        ({"workers": 0}, "workers"),
        ({"cpus_per_child": "2"}, "cpus_per_child"),
        ({"gpus_per_child": float("inf")}, "gpus_per_child"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        RayExecutor(**arguments)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("127.0.0.1:1", "can't be reached"),
        ("ray://127.0.0.1:1", "must be 'auto' or 'host:port'"),
        ("here", "must be 'auto' or 'host:port'"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path, address, text):
    ray.shutdown()
    with pytest.raises(ConfigurationError, match=text):
        search(tmp_path / "run", RayExecutor(address=address))


def test_a_program_that_was_started_several_times_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="start it once"):
        search(tmp_path / "run", "ray")


def test_an_executor_of_no_kind_is_told():
    with pytest.raises(ConfigurationError, match="executor must be inline, ray or an Executor"):
        LemonadeTrainer(executor="dask")


PROGRAM = """
    import sys
    from lightning_lemonade import LemonadeTrainer, RayExecutor, SearchCallback
    from lightning_lemonade.datamodules import DigitsDataModule

    class Tell(SearchCallback):
        def on_candidate_end(self, search, candidate):
            print("done", candidate.id, flush=True)

    if __name__ == "__main__":
        LemonadeTrainer(run_dir={run!r}, executor=RayExecutor(workers=1), asynchronous=True, callbacks=[Tell()],
                        **{settings!r}).search(DigitsDataModule())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_search_leaves_no_process_and_goes_on(tmp_path, number):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).format(run=str(tmp_path / "run"), settings=TINY | {"max_generations": 3}))
    clean = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONUNBUFFERED": "1"}
    program = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean, text=True)
    while "done" not in (line := program.stdout.readline()):
        assert line, program.stderr.read()[-3000:]
    others = psutil.Process(program.pid).children(recursive=True)
    assert workers_of(psutil.Process(program.pid))
    program.send_signal(number)
    assert program.wait(60) != 0
    # Ray's own agents look only every minute whether the node is still there
    assert not left_of([process for process in others if "Agent" not in name_of(process)])
    done = {candidate.id for candidate in History.open(tmp_path / "run").candidates() if candidate.state == "evaluated"}
    assert done
    history = search(tmp_path / "run", asynchronous=True, max_generations=3)  # resumed elsewhere: here
    assert {candidate.state for candidate in history.candidates()} == {"evaluated"}
    assert done <= {candidate.id for candidate in history.candidates()}


def name_of(process):
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def workers_of(process):
    return [child for child in process.children(recursive=True) if "ray::Worker" in name_of(child)]


def left_of(processes):
    """Returns which processes don't end, however slow the machine: Ray gives its workers the least of a busy one."""
    deadline = time.monotonic() + 120
    while (left := [process for process in processes if name_of(process)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left
