"""RayExecutor: children are evaluated by the processes of a Ray cluster, one for each device or fraction of one."""

import importlib.util
import logging
import os
import pickle
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_lemonade.beats import Beats
from lightning_lemonade.errors import ConfigurationError, DataError, SearchError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, Recipe, kept
from lightning_lemonade.executors.executor import Executor, Request, Result
from lightning_lemonade.ranks import Ranks, started_by_srun
from lightning_lemonade.search import Failure, Outcome

if TYPE_CHECKING:
    from lightning_lemonade.executors.crew import Crew

TICK = 1.0
"""Seconds after which it is looked whether a worker is silent or late, while nothing else happens."""
PATIENCE = 10.0
"""Seconds in which a cluster must answer."""
RECOUNT = 15.0
"""Seconds after which a cluster is looked at again, which may have grown."""
GRACE = 60.0
"""Seconds beyond `max_child_time` after which a worker that doesn't end a child itself is killed."""
AT_ONCE = 16
"""Most results that are fetched at once, before new children are proposed: their weights are in this process then."""
FALSE_STARTS = 3
"""How often in a row workers may die before they are ready, for each one that there shall be."""


class RayExecutor(Executor):
    """Evaluates children on a Ray cluster, or on this machine as one.

    Each child is evaluated by a process of its own (by several, where the trainer's `devices` are several: DDP within a child), which
    sets up the data once. The process of the search draws, records and writes alone; weights come and go by Ray's object store. A child
    whose process dies, falls silent or takes far too long is evaluated again elsewhere, and fails after `max_retries` more tries. Equal to
    evaluating children here, bit for bit on a CPU, with the same `threads_per_child` and without `asynchronous`.

    Args:
        address: of the cluster: `"auto"` for the one that this machine belongs to, `"host:port"`, or None to use this machine alone. A
            program that has called `ray.init` keeps its own.
        gpus_per_child: GPUs for each child, also a fraction; by default one where the cluster has any and the accelerator isn't the CPU.
        cpus_per_child: cores for each child, and its threads where `threads_per_child` isn't given.
        max_retries: how often a child is evaluated again whose process was lost.
        workers: how many children at a time; by default as many as there is room for, also in a cluster that grows.
        heartbeat_timeout: seconds of silence after which a process counts as lost.
        start_timeout: seconds for which no process at all may have started; also how much longer than ten times what it takes here a
            process may take to set up the data.

    Raises:
        ConfigurationError: if Ray isn't installed, or an argument can't be used.
    """

    def __init__(
        self,
        address: str | None = None,
        gpus_per_child: float | None = None,
        cpus_per_child: float = 1,
        max_retries: int = 2,
        *,
        workers: int | None = None,
        heartbeat_timeout: float = 120.0,
        start_timeout: float = 300.0,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigurationError("RayExecutor needs Ray: pip install 'lightning-lemonade[ray]'")
        numbers: dict[str, tuple[float | None, float]] = {
            "gpus_per_child": (gpus_per_child, 0),
            "cpus_per_child": (cpus_per_child, 0),
            "max_retries": (max_retries, 0),
            "workers": (workers, 1),
            "heartbeat_timeout": (heartbeat_timeout, 1),
            "start_timeout": (start_timeout, 1),
        }
        for name, (value, least) in numbers.items():
            if value is not None and not (isinstance(value, int | float) and least <= value < inf):
                raise ConfigurationError(f"{name} of RayExecutor must be a number of at least {least}, got {value!r}")
            if name in ("max_retries", "workers") and not (value is None or isinstance(value, int)):
                raise ConfigurationError(f"{name} of RayExecutor must be a whole number, got {value!r}")
        self.address, self.gpus_per_child, self.cpus_per_child, self.max_retries = address, gpus_per_child, cpus_per_child, max_retries
        self.workers, self.heartbeat_timeout, self.start_timeout = workers, heartbeat_timeout, start_timeout
        self._crews: list[Crew] = []
        self._waiting: deque[Request] = deque()
        self._results: deque[Result] = deque()
        self._tries: dict[int, int] = {}
        self._connected, self._owned, self._started = False, False, 0.0
        self._beats: Any = None
        self._recipe: Any = None

    @property
    def threads(self) -> int:
        """As many as cores for a child."""
        return max(1, int(self.cpus_per_child))

    @property
    def slots(self) -> int:
        """How many children at a time: as many as processes are ready; until the first is, as many as there shall be."""
        return max(1, sum(crew.ready for crew in self._crews) or len(self._crews))

    def prepare(self, recipe: Recipe) -> Ranks:
        """See `Executor.prepare`. Connects to the cluster, and begins the workers, whose imports take as long as the data does here."""
        if self._connected:
            raise ConfigurationError("this RayExecutor evaluates the children of another search: give each its own")
        if max(started_by_srun(), int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise ConfigurationError("this program was started several times (by torchrun or srun): with Ray, start it once")
        try:
            self._connect()
            self._prepare(recipe)
        except BaseException:
            self.close()
            raise
        return Ranks(0)

    def _prepare(self, recipe: Recipe) -> None:
        """Begins the workers for a recipe."""
        self._gpus = self._gpus_of_a_child(recipe.trainer_arguments)
        self._size = _devices(recipe.trainer_arguments, self._gpus)
        self._limit = recipe.max_child_seconds
        arguments = _of_one_node(recipe.trainer_arguments, self._size, self._gpus)
        try:
            pickled = _pickle(replace(recipe, trainer_arguments=arguments))
        except Exception as error:
            raise ConfigurationError(
                f"the search can't be sent to other processes ({type(error).__name__}: {error}): data modules, modules and callbacks must "
                f"be picklable; give classes or functions in place of open files, locks and generators"
            ) from error
        self._begin(pickled)

    def open(self, ranks: Ranks, evaluator: Evaluator) -> None:
        """See `Executor.open`."""
        import ray  # noqa: PLC0415
        import torch  # noqa: PLC0415

        self._torch_threads = torch.get_num_threads()
        self._checksums = {task: dict(data.checksums) for task, data in evaluator.tasks.items()}
        self._prepared = ray.get_runtime_context().get_node_id()
        now = time.monotonic()
        self._set_up_limit = self.start_timeout + 10 * (now - self._started)
        self._started = now  # whoever was lost meanwhile is begun again
        for crew in self._crews:  # not before `prepare_data` has run here: what it makes may be what they read
            crew.set_up(self._recipe, self._prepared)

    def submit(self, request: Request) -> None:
        """See `Executor.submit`."""
        self._waiting.append(request)

    def next(self) -> Result | None:
        """See `Executor.next`."""
        import ray  # noqa: PLC0415

        slots = self.slots
        while not self._results:
            self._hand_out()
            crews = {reference: crew for crew in self._crews for reference in crew.references}
            references = [*crews, *self._asked_beats]
            if not references:  # for which Ray doesn't wait
                time.sleep(TICK)
            done, _ = ray.wait(references, num_returns=1, timeout=TICK)
            if done:  # what else is there
                done, _ = ray.wait(references, num_returns=min(AT_ONCE, len(references)), timeout=0)
            for reference in done:
                if reference not in crews:
                    self._hear(reference)
                elif crews[reference] in self._crews:  # else it was lost by another of its references
                    self._take(crews[reference], reference)
            self._look_around()
            if self.slots != slots and not self._results:
                return None
        return self._results.popleft()

    @property
    def ready(self) -> bool:
        """See `Executor.ready`."""
        return bool(self._results)

    def close(self) -> None:
        """See `Executor.close`. Ends all processes; a cluster on this machine, if it was begun here."""
        if not self._connected:
            return
        import ray  # noqa: PLC0415

        for crew in self._crews:
            crew.kill()
        self._crews, self._connected = [], False
        self._waiting.clear()
        self._results.clear()
        self._tries.clear()
        self._recipe = None
        if self._beats is not None:
            ray.kill(self._beats)
            self._beats = None
        if self._owned:
            ray.shutdown()

    def _connect(self) -> None:
        """Connects to the cluster.

        Raises:
            ConfigurationError: if there is none.
        """
        import ray  # noqa: PLC0415

        self._owned = not ray.is_initialized()
        if self._owned:
            if self.address is not None:
                _check_reachable(self.address)
            try:
                with kept(signal.SIGTERM):
                    ray.init(
                        address=self.address or "local",
                        namespace="lightning_lemonade",
                        include_dashboard=None if self.address else False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                answers = f"the Ray cluster {self.address!r} answers, but lets nobody in"
                where = answers if self.address else "Ray can't start on this machine"
                raise ConfigurationError(
                    f"{where}: {str(error).splitlines()[0] if str(error) else type(error).__name__}; if its token is what is missing: "
                    f"RAY_AUTH_MODE must be the same wherever Ray runs, and with `token` the token, too"
                ) from error
        self._connected = True

    def _gpus_of_a_child(self, arguments: Mapping[str, Any]) -> float:
        """Returns the GPUs of a child.

        Raises:
            ConfigurationError: if it needs some and gets none.
        """
        import ray  # noqa: PLC0415

        accelerator = str(arguments.get("accelerator", "auto"))
        if self.gpus_per_child is None:
            several = _devices(arguments, 1)
            gpus = float(several) if accelerator != "cpu" and ray.cluster_resources().get("GPU") else 0.0
        else:
            gpus = float(self.gpus_per_child)
        if gpus > 1 and gpus != int(gpus):
            raise ConfigurationError(f"gpus_per_child={gpus:g}: give a fraction of one GPU, or a whole number of them")
        if not gpus and accelerator in ("gpu", "cuda"):
            raise ConfigurationError(f"accelerator={accelerator} needs GPUs, and the children get none: see the cluster and gpus_per_child")
        return 0.0 if accelerator == "cpu" else gpus

    def _begin(self, pickled: bytes) -> None:
        """Begins the first processes."""
        import ray  # noqa: PLC0415
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # lost with the search alone
        self._beats = ray.remote(Beats).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self._asked_beats: list[Any] = []
        self._recipe = ray.put(pickled)
        self._prepared = ""
        self._numbers, self._false_starts = count(), 0
        self._started = self._heard = time.monotonic()
        self._recount()
        if not self._crews:
            self._look_for_room()

    def _look_for_room(self) -> None:
        """Raises ConfigurationError if a cluster has no room for a single child."""
        import ray  # noqa: PLC0415

        has = ", ".join(f"{amount:g} {name}" for name, amount in sorted(ray.cluster_resources().items()) if name in ("CPU", "GPU"))
        raise ConfigurationError(
            f"a child needs {self.cpus_per_child:g} CPU and {self._gpus:g} GPU, and the cluster has {has or 'neither'}: "
            f"see cpus_per_child and gpus_per_child"
        )

    def _recount(self) -> None:
        """Begins as many processes as the cluster has room for; those that wait for room that is gone are given up."""
        from lightning_lemonade.executors.crew import Crew  # noqa: PLC0415

        self._counted = time.monotonic()
        room = sum(room_for_children(node, self.cpus_per_child, self._gpus) for node in nodes_alive())
        counted = self.cpus_per_child or self._gpus  # else Ray has room for any number
        target = min(room, self.workers or room) if counted else self.workers or room
        for crew in [crew for crew in self._crews if not crew.up][: max(0, len(self._crews) - target)]:
            self._remove(crew)
        for _ in range(len(self._crews), target):
            numbers = [next(self._numbers) for _ in range(self._size)]
            self._crews.append(
                Crew(
                    numbers,
                    cpus=self.cpus_per_child / self._size,
                    gpus=self._gpus / self._size,
                    beats=self._beats,
                )
            )
            if self._prepared:
                self._crews[-1].set_up(self._recipe, self._prepared)

    def _hand_out(self) -> None:
        """Gives waiting requests to workers that are ready."""
        import ray  # noqa: PLC0415

        for crew in self._crews:
            if self._waiting and crew.ready and crew.request is None:
                request = self._waiting.popleft()
                try:
                    reference = ray.put(request)
                except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
                    raise SearchError(
                        f"Ray has no room for the weights of another child ({_first_line(error)}): begin it with more "
                        f"--object-store-memory, or free the disk that it spills to, and give the same command again to go on"
                    ) from error
                crew.begin(request, reference, self._torch_threads)

    def _take(self, crew: "Crew", reference: Any) -> None:  # noqa: ANN401
        """Takes what a worker says."""
        from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

        try:
            what, value = crew.take(reference)
        except RayTaskError as error:  # no LemonadeError, so a defect, of ours or of what the user's code leaves behind
            raise SearchError(f"a worker raised what it must not: {error}") from error
        except RayError as error:
            self._lose(crew, _first_line(error))
            return
        if what == "up":
            return
        if value.error is not None and not value.lost:
            raise value.error
        if value.error is not None or what == "lost":
            self._lose(crew, str(value.error or "one of its processes left"))
        elif what == "ready":
            self._compare(value.value)
            self._false_starts = 0
        elif crew.request is not None:
            self._results.append(value.value)
            self._tries.pop(_key(crew.request), None)
            crew.request = None

    def _compare(self, facts: Any) -> None:  # noqa: ANN401
        """Raises a DataError if a worker has other data than the search."""
        for task, checksums in facts.checksums.items():
            for part, checksum in checksums.items():
                if self._checksums[task].get(part) != checksum:
                    raise DataError(
                        f"the data on {facts.node} isn't the search's: its {part} batch differs; copy the same files there, and draw "
                        f"splits by a fixed seed"
                    )

    def _lose(self, crew: "Crew", why: str) -> None:
        """Gives up a worker; what it worked on is tried again by another one, or has failed."""
        request, ready = crew.request, crew.ready
        self._remove(crew)
        if not ready:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS * (len(self._crews) + 1):
                raise SearchError(f"{self._false_starts} workers in a row were lost before they were ready, the last one with: {why}")
        if request is not None:
            tries = self._tries[_key(request)] = self._tries.get(_key(request), 0) + 1
            if tries <= self.max_retries:
                self._waiting.appendleft(request)
            elif isinstance(request, EvaluationRequest):
                failure = Failure("worker_lost", f"its worker was lost {_times(tries)}, at last with: {why}")
                self._fail(request, failure)
            else:
                raise SearchError(f"the worker that tests candidate {request.id} was lost {_times(tries)}, at last with: {why}")
        self._recount()

    def _fail(self, request: EvaluationRequest, failure: Failure) -> None:
        self._tries.pop(_key(request), None)
        self._results.append(Evaluation(Outcome(request.child.id, failure=failure), {}))

    def _remove(self, crew: "Crew") -> None:
        self._crews.remove(crew)
        crew.kill()

    def _look_around(self) -> None:
        """Gives up workers that are silent or far too late, and begins others where the cluster has grown.

        Raises:
            SearchError: if there has been no worker for too long.
        """
        import ray  # noqa: PLC0415

        now = time.monotonic()
        if any(crew.up for crew in self._crews):
            self._started = now
        elif now - self._started > self.start_timeout:
            raise SearchError(
                f"no worker started within {self.start_timeout:g} seconds: see with `ray status` whether the cluster has room for one with "
                f"{self.cpus_per_child:g} CPU and {self._gpus:g} GPU, and give the same command again to go on"
            )
        answered = set(self._answered()) if any(self._is_late(crew, now) for crew in self._crews) else set()
        for crew in list(self._crews):
            request, late = crew.request, self._is_late(crew, now) and not answered.intersection(crew.references)
            if late and isinstance(request, EvaluationRequest):
                crew.request = None
                self._lose(crew, "")
                self._fail(request, Failure("time_limit", f"not done after {self._limit:.10g} seconds, nor {GRACE:g} seconds later"))
            elif late and request is not None:
                self._lose(crew, f"it wasn't done {now - crew.since:.0f} seconds later")
            elif crew.up and not crew.ready and self._prepared and now - crew.since > self._set_up_limit:
                self._lose(crew, f"its data wasn't set up {now - crew.since:.0f} seconds later, see start_timeout")
        if not self._asked_beats and now - self._heard > min(TICK * 5, self.heartbeat_timeout / 2):
            self._asked_beats = [self._beats.silence.remote()]
        elif self._asked_beats and now - self._heard > 2 * self.heartbeat_timeout:  # who hears is silent itself
            ray.kill(self._beats, no_restart=False)
            self._asked_beats, self._heard = [], now
        if now - self._counted > RECOUNT:
            self._recount()

    def _is_late(self, crew: "Crew", now: float) -> bool:
        """Returns whether a worker hasn't ended a child itself that takes too long."""
        return self._limit is not None and now - crew.since > self._limit + GRACE

    def _answered(self) -> list[Any]:
        """Returns the references of all that is there already: more than was taken, where this process was held up."""
        import ray  # noqa: PLC0415

        references = [reference for crew in self._crews for reference in crew.references]
        return list(ray.wait(references, num_returns=len(references), timeout=0)[0]) if references else []

    def _hear(self, reference: Any) -> None:  # noqa: ANN401
        """Gives up workers that have been silent for too long."""
        import ray  # noqa: PLC0415

        self._asked_beats, self._heard = [], time.monotonic()
        try:
            listened, silence = ray.get(reference)
        except ray.exceptions.RayError:  # who hears was lost, too, and is begun again
            return
        for crew in [crew for crew in self._crews if crew.up]:
            longest = max(silence.get(number, min(listened, self._heard - crew.since)) for number in crew.numbers)
            if longest > self.heartbeat_timeout:
                self._lose(crew, f"nothing was heard of it for {longest:.0f} seconds")


def _check_reachable(address: str) -> None:
    """Raises a ConfigurationError if nobody answers where a cluster should be; Ray itself would end the program after a minute."""
    if address == "auto":
        current = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"  # which `ray start` writes
        address = os.environ.get("RAY_ADDRESS") or (current.read_text().strip() if current.is_file() else "")
        if not address:
            raise ConfigurationError("address='auto': this machine belongs to no Ray cluster; begin one with `ray start --head`")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        raise ConfigurationError(f"address must be 'auto' or 'host:port' of a Ray cluster that this machine belongs to, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"the Ray cluster {address} can't be reached ({error}): see `ray status`, or give another address"
        ) from error


def nodes_alive() -> list[Mapping[str, float]]:
    """Returns what each machine of the cluster has, that this program is connected to."""
    import ray  # noqa: PLC0415

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room_for_children(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Returns how many children a machine has room for, each with some cores and GPUs; if they need neither, one."""
    return min((times(need, node.get(name, 0.0)) for name, need in (("CPU", cpus), ("GPU", gpus)) if need), default=1)


def times(need: float, has: float) -> int:
    """Returns how often an amount fits into another one, in Ray's units of a ten-thousandth: five times 0.2 are one."""
    return round(has * 10_000) // max(1, round(need * 10_000))


def _key(request: Request) -> int:
    """Returns what a request's tries are counted by: candidates are tested once no child is evaluated any more."""
    return request.child.id if isinstance(request, EvaluationRequest) else request.id


def _pickle(recipe: Recipe) -> bytes:
    """Returns a recipe so that another process can read it, with classes and functions of the user's program by value."""
    from ray import cloudpickle  # noqa: PLC0415

    return bytes(cloudpickle.dumps(recipe, protocol=pickle.HIGHEST_PROTOCOL))


def _devices(arguments: Mapping[str, Any], gpus: float) -> int:
    """Returns how many processes train a child: as many as the trainer's devices; where these aren't told, as whole GPUs."""
    devices = arguments.get("devices", "auto")
    if isinstance(devices, list | tuple):
        return max(1, len(devices))
    if str(devices) in ("auto", "-1"):
        return max(1, int(gpus))
    try:
        return max(1, int(devices))
    except ValueError:
        raise ConfigurationError(f"devices={devices!r}: with Ray, give the number of devices of one child") from None


def _of_one_node(arguments: Mapping[str, Any], size: int, gpus: float) -> dict[str, Any]:
    """Returns a trainer's arguments as the processes of one child, that get some GPUs together, take them."""
    if gpus and size != max(1, gpus):
        raise ConfigurationError(f"devices={size} with gpus_per_child={gpus:g}: a child has one process for each GPU; give one of both")
    if int(arguments.get("num_nodes", 1)) > 1:
        raise ConfigurationError("num_nodes: with Ray, a child is trained on one machine, and several machines train several children")
    strategy = arguments.get("strategy", "auto")
    if size == 1 and strategy != "auto":
        raise ConfigurationError(f"strategy={strategy!r} with one device for each child: give devices, too, or leave it out")
    own: dict[str, Any] = {"devices": size} | ({"strategy": "ddp"} if size > 1 and strategy == "auto" else {})
    if not gpus and arguments.get("accelerator", "auto") == "auto":
        own["accelerator"] = "cpu"  # the processes see the GPUs of their machine, which other children may have
    return {**arguments, **own}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
