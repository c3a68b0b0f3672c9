import csv
from itertools import product

import programs
import pytest

OPS = ("avg_pool_3x3", "none", "nor_conv_1x1", "nor_conv_3x3", "skip_connect")
WEIGHT = {"none": 0, "skip_connect": 0, "avg_pool_3x3": 0, "nor_conv_1x1": 1, "nor_conv_3x3": 9}
WORTH = {"none": 0, "skip_connect": 1, "avg_pool_3x3": 0.5, "nor_conv_1x1": 2, "nor_conv_3x3": 4}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """All cells, with values of a known form: weights cost, and each is worth less where there are many."""
    path = tmp_path_factory.mktemp("table") / "cells.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "cifar10_valid_acc_12ep", "params_derived", "macs_derived", "latency_ms_toy"])
        for ops in product(OPS, repeat=6):
            e = [f"{op}~{i}" for op, i in zip(ops, (0, 0, 1, 0, 1, 2), strict=True)]
            weights, worth = sum(WEIGHT[op] for op in ops), sum(WORTH[op] for op in ops)
            latency = 1 + sum(op != "none" for op in ops) + 0.1 * weights
            writer.writerow(
                [f"|{e[0]}|+|{e[1]}|{e[2]}|+|{e[3]}|{e[4]}|{e[5]}|", 90 - 80 / (1 + worth), 1000 + 900 * weights, 10**6, latency]
            )
    return path


def test_a_short_form_compares_every_method(table, tmp_path):
    out = tmp_path / "regrets.csv"
    done = programs.run_script("bench_tabular.py", table, "--seeds", 1, "--queries", 50, "--devices", "toy", "--workers", 1, "--csv", out)
    assert done.returncode == 0, done.stderr
    with out.open() as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows}
    assert {"density", "gain", "uniform", "random", "regularised", "nsga2-20"} <= methods
    assert len(rows) == 2 * len(methods)
    assert all(0 <= float(row["50"]) <= 1 for row in rows)

    def mean(method):
        return sum(float(row["50"]) for row in rows if row["method"] == method) / 2

    assert mean("gain") < mean("random")


def test_without_a_table_it_says_so(tmp_path):
    done = programs.run_script("bench_tabular.py", tmp_path / "none.csv")
    assert done.returncode == 2
    assert "is no file" in done.stderr
