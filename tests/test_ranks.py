import json
import signal
import sys
import time
from pathlib import Path

import processes
import pytest
import rank_modules
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment

from lightning_lemonade import LemonadeModule, LemonadeTrainer
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.history import History
from lightning_lemonade.ranks import started_by_srun

PROGRAM = rank_modules.__file__
TWO = json.dumps({"devices": 2})


def results(done):
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line.partition("result ")[2]) for line in done.stdout.splitlines() if "result {" in line]
    return sorted(found, key=lambda one: one["rank"])


def evaluated(run_dir):
    return [(c.hash, c.mutations, c.objectives, c.images) for c in History.open(run_dir).candidates()]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A search by a script that starts its second process itself."""
    directory = tmp_path_factory.mktemp("launched") / "run"
    return directory, results(processes.run(PROGRAM, "look", directory, TWO))


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A search by torchrun on two nodes, of one process each; on one node it is killed below."""
    directory, port = tmp_path_factory.mktemp("nodes") / "run", processes.free_port()
    arguments = (PROGRAM, "look", directory, json.dumps({"devices": 1, "num_nodes": 2}))
    agents = [processes.started(*processes.torchrun(*arguments, nodes=2, node=node, port=port, per_node=1)) for node in (0, 1)]
    found = [results(processes.ended(agent)) for agent in agents]
    return directory, sorted((one for of_node in found for one in of_node), key=lambda one: one["rank"])


@pytest.mark.parametrize("way", ["launched", "two_nodes"])
def test_two_processes_train_the_same_children_and_one_writes(request, way):
    directory, found = request.getfixturevalue(way)
    assert [one["rank"] for one in found] == [0, 1]
    assert found[0]["trained"] == found[1]["trained"]
    assert found[0]["front"] == found[1]["front"]
    assert [written for written in found[1]["written"] if not written.endswith("-journal")] == []
    assert found[0]["written"]
    candidates = History.open(directory).candidates()
    assert all(candidate.state == "evaluated" for candidate in candidates)
    assert [spec_hash for spec_hash, _ in found[0]["trained"]] == [candidate.hash for candidate in candidates]


def test_however_the_processes_are_started_the_search_is_the_same(launched, two_nodes):
    assert evaluated(launched[0]) == evaluated(two_nodes[0])


def test_with_the_errors_of_one_device_the_search_takes_the_same_course(tmp_path):
    longer = {"max_generations": 4, "limit_train_batches": 5, "threads_per_child": 1}
    LemonadeTrainer(run_dir=tmp_path / "one", devices=1, **rank_modules.SMALL | longer).search(rank_modules.Odd())
    of_ranks = processes.run_ranks(PROGRAM, "replay", tmp_path / "two", tmp_path / "one", json.dumps(longer))
    found = [one for done in of_ranks for one in results(done)]
    one, two = (History.open(tmp_path / name) for name in ("one", "two"))
    assert found[0]["trained"] == found[1]["trained"]
    assert [(c.parent, c.generation, c.mutations, c.hash) for c in one.candidates()] == [
        (c.parent, c.generation, c.mutations, c.hash) for c in two.candidates()
    ]
    for other in ("front", "hypervolume", "proposed"):
        assert [getattr(g, other) for g in one.generations()] == [getattr(g, other) for g in two.generations()]
    assert max(c.generation for c in two.candidates()) == 4


def test_generations_propose_apart_and_the_users_generator_is_left_alone(launched):
    directory, found = launched
    candidates = History.open(directory).candidates()
    mutations = [str(candidate.mutations) for candidate in candidates if candidate.generation > 0]
    assert {candidate.generation for candidate in candidates} == {0, 1, 2}
    assert len(set(mutations)) == len(mutations) == 4
    assert all(one["restored"] for one in found)


def test_every_child_trains_the_steps_and_images_of_one_device(launched):
    directory, found = launched
    loader = rank_modules.Odd().train_dataloader()
    assert [steps for _, steps in found[0]["trained"]] == [len(loader)] * len(found[0]["trained"])
    assert {candidate.images for candidate in History.open(directory).candidates()} == {len(loader.dataset)}
    assert len(loader.dataset) % loader.batch_size


def test_the_recorded_error_is_that_of_the_whole_split(launched):
    from lightning_lemonade import load

    front, loader = load(launched[0]), rank_modules.Odd().val_dataloader()
    assert len(loader.dataset) % 2
    for candidate in front:
        network = candidate.network.eval()
        with torch.no_grad():
            wrong = sum(int((network(x).argmax(1) != y).sum()) for x, y in loader)
        assert candidate.objectives["error"] == pytest.approx(wrong / len(loader.dataset), abs=1e-7)


@pytest.fixture(scope="module")
def wrong_on_one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wrong") / "run"
    return directory, processes.run_ranks(PROGRAM, "wrong", directory)


def test_a_loss_that_is_nan_on_one_rank_fails_the_child_on_all(wrong_on_one):
    failed = [candidate for candidate in History.open(wrong_on_one[0]).candidates() if candidate.failure]
    assert [(candidate.id, candidate.failure.kind) for candidate in failed] == [(1, "not_a_number")]


def test_a_rank_that_fails_alone_stops_the_search_instead_of_hanging(wrong_on_one):
    first, second = wrong_on_one[1]
    assert first.returncode != 0
    assert second.returncode != 0
    assert "rank 0 can't go on: the process of rank 1 of this search has ended" in first.stderr
    assert "rank 1 lost the other ranks at candidate 2 after it failed here with: RuntimeError: this rank's own bug" in second.stderr


def killed(arguments, flag, run=processes.run):
    """Returns what a program said after one of its processes was killed; it and all others have ended soon."""
    done = run(*arguments, start_new_session=True)
    seconds = time.time() - float(Path(flag).read_text())
    done = done[0] if isinstance(done, list) else done
    assert done.returncode != 0
    sys.stdout.write(f"all had ended after {seconds:.1f} s\n")
    assert seconds < 60
    return done


def resumed(arguments, run_dir):
    assert History.open(run_dir).status != "finished"
    done = processes.run(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    history = History.open(run_dir)
    assert history.status == "finished"
    assert all(candidate.state == "evaluated" for candidate in history.candidates())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_one_that_hangs(tmp_path, rank):
    flag = tmp_path / "flag"
    done = killed((PROGRAM, "dying", tmp_path / "run", rank, "fit", flag, "hang"), flag)
    assert f"rank {1 - rank} can't go on: the process of rank {rank}" in done.stderr
    assert "give the same command" in done.stderr


def test_a_process_that_is_killed_under_torchrun_ends_the_search(tmp_path):
    flag, arguments = tmp_path / "flag", (PROGRAM, "dying", tmp_path / "run", 1, "fit", tmp_path / "flag", "")
    done = killed(processes.torchrun(*arguments), flag)
    assert "rank 0 can't go on: the process of rank 1" in done.stderr


def test_a_process_that_is_killed_while_rank_0_proposes_ends_the_search(tmp_path):
    flag = tmp_path / "flag"
    done = killed((PROGRAM, "proposing", tmp_path / "run", flag), flag, processes.run_ranks)
    assert "error: rank 0 can't go on: the process of rank 1" in done.stderr


def test_the_command_line_tells_of_a_killed_process_and_resumes(tmp_path):
    flag, run_dir = tmp_path / "flag", tmp_path / "run"
    small = [f"--{name}={value}" for name, value in {**rank_modules.SMALL, "max_generations": 1}.items()]
    data = ["--data=rank_modules.Dying", "--data.rank=1", "--data.phase=validate", f"--data.flag={flag}"]
    program = (Path(sys.executable).parent / "lightning-lemonade", "search", *small, *data, "--devices=2", f"--run_dir={run_dir}")
    done = killed(program, flag)
    assert done.returncode == 2
    assert "error: rank 0 can't go on: the process of rank 1" in done.stderr
    assert "Traceback" not in done.stderr
    resumed(program, run_dir)


def test_batch_norms_cannot_be_synchronised_on_the_cpu():
    with pytest.raises(ConfigurationError, match=r"sync_batchnorm=True: .* leave it out on the CPU"):
        LemonadeTrainer(accelerator="cpu", devices=2, sync_batchnorm=True).search(rank_modules.Odd())


def test_srun_and_devices_must_agree(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    with pytest.raises(ConfigurationError, match="srun started 2 processes, but devices and num_nodes ask for 1"):
        LemonadeTrainer(accelerator="cpu", devices=1).search(rank_modules.Odd())


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_in_a_shell_of_srun_the_search_starts_its_processes_itself(monkeypatch, name):
    for key, value in {"STEP_NUM_TASKS": "1", "NTASKS": "1", "JOB_NAME": "search"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    assert started_by_srun() == 1
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    assert started_by_srun() == 0


def test_slurms_signals_are_left_to_whoever_set_them(tmp_path, monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_NAME": "search", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    heard = []

    class Looks(LemonadeModule):
        def on_train_start(self):
            assert isinstance(self.trainer._accelerator_connector.cluster_environment, SLURMEnvironment)
            heard.append(signal.getsignal(signal.SIGUSR1))

    LemonadeTrainer(run_dir=tmp_path / "run", module=Looks, devices=1, **rank_modules.SMALL | {"max_generations": 1}).search(
        rank_modules.Odd()
    )
    assert set(heard) == {signal.SIG_DFL}


def test_torchrun_and_devices_must_agree(monkeypatch):
    for name, value in {"RANK": 0, "GROUP_RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ConfigurationError, match="torchrun started 2 processes, but devices and num_nodes ask for 1"):
        LemonadeTrainer(accelerator="cpu", devices=1).search(rank_modules.Odd())
