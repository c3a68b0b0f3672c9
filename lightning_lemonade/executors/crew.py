"""Crew: the processes that evaluate one child at a time, on a Ray cluster."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lightning_lemonade.executors.executor import Request
from lightning_lemonade.executors.worker import Worker


class Crew:
    """One process, or several that train each child together (DDP).

    Args:
        numbers: of the processes; one for each.
        cpus: for each process.
        gpus: for each process.
        beats: the actor that hears whether they are alive.

    Attributes:
        numbers: as above.
        request: what it works on; whoever takes the result sets it to None.
        since: when it began that, or to run, or to set up its data, on the monotonic clock.
        up: whether all its processes run.
        ready: whether its data is set up.
    """

    def __init__(self, numbers: Sequence[int], *, cpus: float, gpus: float, beats: Any) -> None:  # noqa: ANN401
        self.numbers, self.since, self.up, self.ready = list(numbers), 0.0, False, False
        self.request: Request | None = None
        self._group = None
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        if len(numbers) > 1:  # on one machine, whose GPUs they see together
            bundle = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
            self._group = placement_group([bundle or {"CPU": 0.001}] * len(numbers), strategy="STRICT_PACK")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._group)
        self._actors = [ray.remote(Worker).options(**options).remote(number, beats) for number in numbers]
        self._where = [actor.place.remote() for actor in self._actors]
        self._places, self._starting = list(self._where), list[Any]()
        self._following, self._working = list[Any](), list[Any]()

    def set_up(self, recipe: Any, prepared: str) -> None:  # noqa: ANN401
        """Begins to set its data up.

        Args:
            recipe: reference to the pickled recipe.
            prepared: the node on which `prepare_data` has run.
        """
        self.since = time.monotonic()
        self._starting = [actor.start.remote(recipe, prepared, rank, *self._where) for rank, actor in enumerate(self._actors)]

    @property
    def references(self) -> list[Any]:
        """References to what it is doing; if one is done, `take` it."""
        return [*self._places, *self._starting, *self._following, *self._working]

    def begin(self, request: Request, reference: Any, threads: int) -> None:  # noqa: ANN401
        """Begins work on a request.

        Args:
            request: what is asked.
            reference: to the same in the object store.
            threads: torch's.
        """
        if not self._following:
            self._following = [actor.follow.remote(threads) for actor in self._actors[1:]]
        self.request, self.since = request, time.monotonic()
        self._working = [self._actors[0].evaluate.remote(reference, threads)]

    def take(self, reference: Any) -> tuple[str, Any]:  # noqa: ANN401
        """Takes what one of its references gave.

        Returns:
            What it was (`up`, `ready`, `done`, `lost`) and the value.

        Raises:
            ray.exceptions.RayError: if a process or the object is lost.
        """
        value = ray.get(reference)
        if reference in self._places:
            self._places.remove(reference)
            self.up, self.since = not self._places, time.monotonic()
            return "up", value
        if reference in self._starting:
            self._starting.remove(reference)
            self.ready = not self._starting
            return "ready", value
        if reference in self._following:
            self._following.remove(reference)
            return "lost", value
        self._working.clear()
        return "done", value

    def kill(self) -> None:
        """Ends its processes, whatever they do."""
        for actor in self._actors:
            ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)
