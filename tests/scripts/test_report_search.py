import csv

import programs
import pytest


@pytest.fixture
def results(tmp_path):
    """Ours has the error 0.2 after 10 s and 0.1 after 20; a peer 0.3 and 0.1 after five times as long, in its better form."""
    paths = []
    for seed in (0, 1):
        paths.append(tmp_path / f"{seed}.csv")
        with paths[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["settings", "ours", "method", "seed", "seconds", "epochs", "params", "val_error", "test_error"])
            methods = [("ours", 1, 0.2, 0.1), ("random-4", 5, 0.3, 0.1), ("random-12", 5, 0.4, 0.3), ("ladder-4", 5, 0.5, 0.35)]
            for method, scale, first, last in methods[: 4 if seed else 3]:
                shown = ["toy, augmented, 1 minutes", "no parts" if method == "ours" else "", method, seed]
                writer.writerow([*shown, 10 * scale, 3, 1e4, first, first + 0.01])
                writer.writerow([*shown, 20 * scale, 3, 1e4, last, last + 0.01])
    return paths


def test_the_page_gets_a_table_and_a_picture_again_and_again(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- search: begin -->\nold\n<!-- search: end -->\nafter\n")
    for _ in range(2):
        done = programs.run_script("report_search.py", *results, "--page", page, "--pictures", tmp_path)
        assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("### toy, augmented, 1 minutes") == 1
    assert "Ours: no parts. Seeds 0, 1;" in text
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert list(rows) == ["method", "ours", "random-4", "random-12", "ladder-4"]
    assert "| 0.20, 0.20 |" in rows["random-4"]  # 20 s of ours over its own 100
    assert "| 0.10, 0.10 |" in rows["random-12"]  # ours has 0.31 with its first network, after 10 s of 100
    only_one, of_reference = rows["ladder-4"].split("|"), 5  # it was run with seed 1 alone, and has nothing below the reference 0.3
    assert [cell.strip() for cell in only_one[2:5]] == ["-, 2", "-, 100", "-, 6"]
    assert (only_one[of_reference].strip()[:2], only_one[of_reference + 2].strip()) == ("-,", "-, 0.10")
    assert [cell.strip() for cell in only_one[of_reference + 3 : of_reference + 6]] == ["-, 0.000", "-, 0.000", ""]
    assert "random-4 0.20 at 1 and 0.20 at 0.3" in text
    assert (tmp_path / "search-toy-augmented-1-minutes.svg").read_text().startswith("<?xml")


def test_a_page_without_marks_is_told(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    done = programs.run_script("report_search.py", *results, "--page", page, "--pictures", tmp_path)
    assert done.returncode == 2
    assert "must hold each of" in done.stderr
    assert page.read_text() == "nothing"


def test_what_two_files_hold_is_told(results, tmp_path):
    done = programs.run_script("report_search.py", *results, results[0], "--pictures", tmp_path)
    assert done.returncode == 2
    assert "holds again what another file does: ours of seed 0, random-12 of seed 0, random-4 of seed 0" in done.stderr
