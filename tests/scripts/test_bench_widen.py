import programs


def test_its_short_form_compares_the_ways():
    arguments = "--seeds 0 --epochs 1 --parent_epochs 1 --width 2"
    done = programs.run_script("bench_widen.py", *arguments.split())
    assert done.returncode == 0, done.stderr[-2000:]
    for title in ("plain network, one layer", "plain network, all layers", "separable network, one layer", "separable network, all layers"):
        assert title in done.stdout
    for way in ("none", "scaled", "he", "duplicate"):
        assert done.stdout.count(f"  {way} ") == 4
