import pytest

from lightning_lemonade import InlineExecutor
from lightning_lemonade.evaluation import Tested
from lightning_lemonade.testing.executors import check_executor


def test_it_keeps_the_contract():
    check_executor(InlineExecutor)


class Twice(InlineExecutor):
    """Gives the first result once more."""

    def next(self):
        result = getattr(self, "first", None) or super().next()
        self.first = result
        return result


class Wrong(InlineExecutor):
    """Tells another error than it measured."""

    def next(self):
        result = super().next()
        return Tested(result.id, {"": 0.5}) if isinstance(result, Tested) else result


class Idle(InlineExecutor):
    slots = 0


@pytest.mark.parametrize(("executor", "text"), [(Twice, "came twice"), (Wrong, "another error"), (Idle, "0 slots")])
def test_one_that_breaks_it_is_told(executor, text):
    with pytest.raises(AssertionError, match=text):
        check_executor(executor)
