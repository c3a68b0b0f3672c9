import re

import programs


def test_a_small_profile_finds_nothing():
    arguments = "--cases 300 --seed 1"
    done = programs.run_script("fuzz_loaders.py", *arguments.split())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "failures: 0" in done.stdout
    kinds = re.findall(r"^([a-z ]+?) +(\d+) +(\d+) +(\d+) +0 ", done.stdout, re.MULTILINE)
    assert len(kinds) == 8
    assert all(int(read) and int(refused) for _, _, read, refused in kinds)
