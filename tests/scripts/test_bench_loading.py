import programs


def test_a_short_form_measures_every_way_with_every_network(tmp_path):
    short = ["--images", "130", "--rounds", "1", "--ways", "memory", "workers-1", "transforms-0", "--data_root", str(tmp_path)]
    done = programs.run_script("bench_loading.py", *short)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("random images, 130 images, cpu")
    assert [line.split(":")[0].split()[1] for line in lines] == ["none", "3", "50", "800"]
    assert all(line.count("/s") == 3 for line in lines)
