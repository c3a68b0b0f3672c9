import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_loading.py"


def test_a_short_form_measures_every_way_with_every_network(tmp_path):
    short = ["--images", "300", "--rounds", "1", "--ways", "memory", "workers-1", "transforms-0", "--data_root", str(tmp_path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *short], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("random images, 300 images, cpu")
    assert [line.split(":")[0].split()[1] for line in lines] == ["none", "3", "50", "800"]
    assert all(line.count("/s") == 3 for line in lines)
