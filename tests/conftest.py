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
    """Files are shared out in their order: the longest first, or one of them would keep one core busy at the end while the others idle."""
    longest = "ray_executor resume trainer ranks morphisms polish asynchronous chaos compare_ranks properties plan bench_morphisms"
    order = {f"test_{name}.py": place for place, name in enumerate(longest.split())}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="module", autouse=True)
def no_cluster_is_left():
    """Files share a process, in an order that differs between machines: what one leaves running, another finds."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
        pytest.fail("a test left its program connected to Ray")
