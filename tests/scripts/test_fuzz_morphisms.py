import programs


def test_a_small_profile_finds_nothing():
    arguments = "--dags 8 --chain 8 --seed 1"
    done = programs.run_script("fuzz_morphisms.py", *arguments.split())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "failures: 0" in done.stdout
    assert "worst difference from the first parent" in done.stdout
