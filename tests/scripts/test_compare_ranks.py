import json
from pathlib import Path

import processes

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_ranks.py"


def test_two_devices_find_the_errors_of_one(tmp_path):
    done = processes.run(SCRIPT, "--seeds=2", "--epochs=2", f"--json={tmp_path / 'rows.json'}")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 4
    assert all(abs(row["difference"]) <= row["allowed"] for row in rows)
