import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_digits.py"


def test_its_short_form_compares_inheritance_and_overhead():
    arguments = "inheritance overhead --seeds 0 --epochs 1 --initial_epochs 1 --total_epochs 12 --generations 1 --scratch_epochs 1"
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments.split()], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "inheritance, 1 epochs a child: hypervolume 0." in done.stdout
    assert "none, 1 epochs a child: hypervolume 0." in done.stdout
    assert "after 12 epochs" in done.stdout
    assert "ratio" in done.stdout


def test_an_unknown_part_is_named():
    done = subprocess.run([sys.executable, str(SCRIPT), "speed"], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "speed" in done.stderr
