import pytest

from lightning_lemonade.errors import ConfigurationError, ObjectiveError
from lightning_lemonade.objectives import Error, Metric, Params, for_tasks, resolve


def test_more_is_better_becomes_less_is_better():
    f1 = Metric("val_f1", "max")
    assert f1.key == "1-val_f1"
    assert f1.of_metrics({"val_f1": 0.75}) == 0.25
    assert f1.bounds(10) == (0.0, 1.0)
    psnr = Metric("val_psnr", "max", best=60, worst=10)
    assert (psnr.key, psnr.of_metrics({"val_psnr": 35.0}), psnr.bounds(3)) == ("60-val_psnr", 25.0, (0.0, 50.0))
    mse = Metric("val_mse", worst=4)
    assert (mse.key, mse.of_metrics({"val_mse": 2.5}), mse.bounds(1)) == ("val_mse", 2.5, (0.0, 4.0))


@pytest.mark.parametrize("arguments", [{"mode": "most"}, {"mode": "max", "worst": 2}, {"best": 3}, {"worst": float("nan")}])
def test_bounds_that_leave_no_room_are_refused(arguments):
    with pytest.raises(ObjectiveError, match="val_f1"):
        Metric("val_f1", **arguments)


def test_a_metric_that_is_not_logged_is_told_with_what_is():
    with pytest.raises(ConfigurationError, match=r"no val_f1 .*val_error, val_loss"):
        Metric("val_f1", "max").of_metrics({"val_error": 0.1, "val_loss": 2.0})
    with pytest.raises(ConfigurationError, match="no val_error"):
        Error().of_metrics({"val_loss": 2.0})


def test_objectives_of_tasks_go_by_name():
    found = resolve("error/a,error/b,params")
    assert [(o.key, o.name) for o in found] == [("error/a", "error"), ("error/b", "error"), ("params", "params")]
    assert [o.key for o in for_tasks(found, ["a", "b"])] == ["error/a", "error/b", "params"]
    assert [o.key for o in for_tasks([Error(), Params()], ["a", "b"])] == ["error/a", "error/b", "params"]
    assert [o.key for o in for_tasks([Metric("val_f1", "max"), Params()], ["a"])] == ["1-val_f1/a", "params"]
    assert [o.key for o in for_tasks([Error(), Params()], [""])] == ["error", "params"]
    assert Error().task == ""


@pytest.mark.parametrize(
    ("objectives", "tasks", "text"),
    [
        (["error/c", "params"], ["a", "b"], "the tasks are a, b"),
        (["error/a", "params"], [""], "there is one data module"),
        (["error", "error/a", "params"], ["a", "b"], "given twice"),
    ],
)
def test_objectives_of_other_tasks_are_refused(objectives, tasks, text):
    with pytest.raises(ObjectiveError, match=text):
        for_tasks(resolve(objectives), tasks)


@pytest.mark.parametrize("name", ["params/a", "speed", 3, "error_a"])
def test_unknown_names_are_told_with_the_known_ones(name):
    with pytest.raises(ObjectiveError, match="known: error, params, macs"):
        resolve([name])
