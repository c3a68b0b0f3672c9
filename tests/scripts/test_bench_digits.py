import programs


def test_its_short_form_compares_inheritance_and_overhead():
    arguments = "inheritance overhead --seeds 0 --epochs 1 --initial_epochs 1 --total_epochs 12 --generations 1 --scratch_epochs 1"
    done = programs.run_script("bench_digits.py", *arguments.split())
    assert done.returncode == 0, done.stderr[-2000:]
    assert "inheritance, 1 epochs a child: hypervolume 0." in done.stdout
    assert "none, 1 epochs a child: hypervolume 0." in done.stdout
    assert "after 12 epochs" in done.stdout
    assert "ratio" in done.stdout


def test_an_unknown_part_is_named():
    done = programs.run_script("bench_digits.py", "speed")
    assert done.returncode == 2
    assert "speed" in done.stderr
