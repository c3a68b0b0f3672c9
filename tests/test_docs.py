"""What the documentation says of the code."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lightning_lemonade import cli

ROOT = Path(__file__).parent.parent


def test_what_the_method_page_names_is_there():
    named = re.findall(r"`([\w/]+\.py)`((?:: (?:`[\w.]+`(?:, )?)+)?)", (ROOT / "docs/method.md").read_text())
    assert len(named) > 80
    missing = []
    for file, names in named:
        path = next((path for path in (ROOT / "lightning_lemonade" / file, ROOT / file) if path.exists()), None)
        text = path.read_text() if path else ""
        for name in [""] if path is None else re.findall(r"`([\w.]+)`", names):
            last = re.escape(name.split(".")[-1])
            if not name or not re.search(rf"\b(def|class) {last}\b|^\s*{last}\b.* = ", text, re.MULTILINE):
                missing.append(f"{file}: {name}")
    assert missing == []


CONFIGS = sorted((ROOT / "docs/configs").glob("*.yaml"))
PAGES = ("one-gpu", "many-gpus", "slurm", "ray")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty folder in which no Ray cluster is found, whoever has one on this machine; with the documentation in reach."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    return tmp_path


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_each_configuration_runs_dry(config, nowhere, capsys):
    assert cli.main(["search", "--config", str(config), "--dry_run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("dry run: ")
    assert "GPU-hours" in out
    assert ("can't be reached" in out) is (config.stem == "ray-cluster")
    assert [path.name for path in nowhere.iterdir()] == ["docs"]


def test_each_configuration_has_a_page_and_its_commands_are_parsed(nowhere, capsys):
    searches = []
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        searches += re.findall(r"lightning-lemonade (search --config (\S+\.yaml)[^&#\n]*)", text)
    assert {ROOT / config for _, config in searches} == set(CONFIGS)
    for command in {command.removesuffix("--dry_run").strip() for command, _ in searches if "`" not in command}:
        assert cli.main([*shlex.split(command), "--print_config"]) == 0, command
    capsys.readouterr()


def test_the_job_for_slurm_is_put_back_before_its_time_is_over(nowhere):
    """Runs it with stand-ins for SLURM's commands."""
    (script,) = re.findall(r"```bash\n(.+?)```", (ROOT / "docs/slurm.md").read_text(), re.DOTALL)
    (nowhere / "search.sbatch").write_text(script)
    (nowhere / "scontrol").write_text('#!/bin/sh\nif [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "$@" >> requeued; fi\n')
    (nowhere / "srun").write_text('#!/bin/sh\necho "$@" > started\nif [ -n "$LONG" ]; then kill -USR1 $PPID; sleep 5; fi\n')
    for name in ("scontrol", "srun"):
        (nowhere / name).chmod(0o755)
    known = {"PATH": f"{nowhere}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "first,second"}
    assert subprocess.run(["bash", "search.sbatch"], check=False, env=known, timeout=60).returncode == 0
    started = (nowhere / "started").read_text().split()
    assert started[:3] == ["torchrun", "--nnodes=2", "--nproc_per_node=4"]
    assert "--rdzv_endpoint=first:29500" in started
    assert started[-4:] == ["lightning-lemonade", "search", "--config", "docs/configs/slurm.yaml"]
    assert not (nowhere / "requeued").exists()
    subprocess.run(["bash", "search.sbatch"], check=False, env=known | {"LONG": "1"}, timeout=60)
    assert (nowhere / "requeued").read_text() == "requeue 7\n"
