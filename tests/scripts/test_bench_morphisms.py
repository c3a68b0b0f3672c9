import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_morphisms.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], check=False, capture_output=True, text=True, timeout=300)


def test_its_short_form_compares_every_way():
    done = run("--short")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "digits (no folder of CIFAR-10 given" in done.stdout
    for text in ("| L1 |", "(best) |", "| mean kernel + BN |", "| bypass |", "shrink_kernel", "merge_layers", "remove_skip", "a second"):
        assert text in done.stdout, text
    assert "| torch-pruning |" in done.stdout or "torch-pruning isn't installed" in done.stdout
    assert "| pass |" in done.stdout


def test_what_is_wrong_is_named():
    assert "speed" in run("speed").stderr
    missing = run("--data_root", "/nowhere")
    assert missing.returncode == 2
    assert "/nowhere is no folder" in missing.stderr
