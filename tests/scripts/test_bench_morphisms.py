import programs


def run(*arguments):
    return programs.run_script("bench_morphisms.py", *arguments)


def test_its_short_form_compares_every_way():
    done = run("--short")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "digits (no folder of CIFAR-10 given" in done.stdout
    for text in ("| L1 |", "(best) |", "| mean kernel + BN |", "| bypass |", "shrink_kernel", "merge_layers", "remove_skip", "a second"):
        assert text in done.stdout, text
    assert "| torch-pruning |" in done.stdout or "torch-pruning isn't installed" in done.stdout
    assert "| pass |" in done.stdout


def test_what_is_wrong_is_named(tmp_path):
    assert "speed" in run("speed").stderr
    missing = run("--data_root", str(tmp_path / "absent"))
    assert missing.returncode == 2
    assert "absent is no folder" in missing.stderr
