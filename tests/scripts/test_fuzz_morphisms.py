import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_morphisms.py"


def test_a_small_profile_finds_nothing():
    arguments = "--dags 15 --chain 8 --seed 1"
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments.split()], check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "failures: 0" in done.stdout
    assert "worst difference from the first parent" in done.stdout
