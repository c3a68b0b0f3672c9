import functools
import os
import sys
from importlib import metadata

import pytest

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's name; its own 15 lets its workers starve beside the other tests)


# Lightning reads what every installed distribution declares for each Trainer it makes: a tenth of a search of the tests' size.
metadata.entry_points = functools.cache(metadata.entry_points)


def pytest_xdist_auto_num_workers():
    """One process more than there are cores: many tests wait for time to pass, or for processes that end."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items):
    """Files are shared out in their order: begun last, those whose tests wait for other processes would leave all but one core idle."""
    longest = ("test_ray_executor.py", "test_ranks.py", "test_chaos.py", "test_compare_ranks.py", "test_bench_morphisms.py")
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(scope="module", autouse=True)
def no_cluster_is_left():
    """Files share a process, in an order that differs between machines: what one leaves running, another finds."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
        pytest.fail("a test left its program connected to Ray")
