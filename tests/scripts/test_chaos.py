import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"


def test_a_search_that_is_killed_comes_to_the_same_end():
    arguments = "--kills 3 --generations 2 --every 140"
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments.split()], check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    (random,) = [line for line in lines if line.startswith("random: kills")]
    (sweep,) = [line for line in lines if line.startswith("sweep: kills")]
    assert "losses 0" in random
    assert "losses 0" in sweep
    assert int(random.split()[2].strip(",")) >= 3
    assert int(sweep.split()[2].strip(",")) >= 5
