"""What runs in the processes of a Ray cluster: one process of a child's evaluation."""

import fcntl
import os
import pickle
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
import torch
from ray.exceptions import ActorDiedError

from lightning_lemonade.errors import ConfigurationError, LemonadeError, SearchError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, Recipe, Tested, TestRequest
from lightning_lemonade.evaluation.failures import in_one_line
from lightning_lemonade.ranks import Ranks, launch

BEAT = 5.0
"""Seconds between two signs of life."""
DEAF = 2
"""How often in a row who hears them must be dead before the search is taken for ended: once may be a restart."""
_LAUNCHERS = re.compile(
    r"(LOCAL_|GLOBAL_|NODE_|GROUP_|ROLE_)?(RANK|WORLD_SIZE|WORLD_RANK)|ROLE_NAME|MASTER_(ADDR|PORT)|PL_\w+"
    r"|(SLURM|TORCHELASTIC|PMI|PMIX|OMPI|MPI|LSB|JSM|KUBEFLOW|XRT)_\w+"
)


@dataclass(frozen=True)
class Answer:
    """What a process says: a value, or an error that isn't the child's.

    Attributes:
        value: of what was asked.
        error: what was raised.
        lost: whether the error is one of this group of processes, and another group may do better.
    """

    value: Any = None
    error: LemonadeError | None = None
    lost: bool = False


@dataclass(frozen=True)
class Facts:
    """What a worker tells when its data is set up.

    Attributes:
        checksums: of the data by task, see `TaskData.checksums`.
        node: a name of the machine.
    """

    checksums: Mapping[str, Mapping[str, str]]
    node: str


class Worker:
    """One process that evaluates children, alone or as one rank of several. An actor.

    What its constructor raised would only be told as its death, so everything that may fail is in methods.

    Args:
        number: that it is known by.
        beats: the actor that hears whether it is alive.
    """

    def __init__(self, number: int, beats: Any) -> None:  # noqa: ANN401 (an actor's handle)
        for name in [name for name in os.environ if _LAUNCHERS.fullmatch(name)]:
            del os.environ[name]  # of whoever launched the cluster; Lightning would take them for its own
        threading.Thread(target=_beat, args=(number, beats), daemon=True).start()

    def place(self) -> tuple[str, int, list[str]]:
        """Returns this machine's address, a free port, and the GPUs that are this process's."""
        with socket.socket() as free:
            free.bind(("", 0))
            gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
            return ray.util.get_node_ip_address(), int(free.getsockname()[1]), gpus

    def start(self, pickled: bytes, prepared: str, rank: int, *places: tuple[str, int, list[str]]) -> Answer:
        """Sets the data up.

        Args:
            pickled: the recipe.
            prepared: the node on which `prepare_data` has run.
            rank: of this process among those of one child.
            places: of all of these.

        Returns:
            Facts, or the error.
        """
        if len(places) > 1:
            address, port, _ = places[0]
            names = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": len(places), "MASTER_ADDR": address, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()})
            if gpus := sorted({gpu for _, _, own in places for gpu in own}):  # each process finds its own by its rank among them
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            recipe: Recipe = pickle.loads(pickled)  # noqa: S301 (the controller's own)
        except Exception as error:
            return Answer(
                error=ConfigurationError(
                    f"a worker on {socket.gethostname()} can't read the search ({in_one_line(error)}): install there what it imports, or "
                    f"set PYTHONPATH where `ray start` is called"
                )
            )
        try:
            self._ranks: Ranks = launch(recipe.trainer_arguments)
        except LemonadeError as error:
            return Answer(error=_plain(error), lost=len(places) > 1)  # its port may have been taken in between
        try:
            here = ray.get_runtime_context().get_node_id()
            self._evaluator: Evaluator = recipe.evaluator(
                lambda action, *, per_node: _prepare(action, needed=per_node and here != prepared)
            )
        except (Exception, SystemExit) as error:
            return Answer(error=_plain(error))
        return Answer(Facts({task: data.checksums for task, data in self._evaluator.tasks.items()}, socket.gethostname()))

    def evaluate(self, request: EvaluationRequest | TestRequest, threads: int) -> Answer:
        """Evaluates a child, or tests one; together with those that `follow`.

        Args:
            request: what to do.
            threads: torch's.
        """
        torch.set_num_threads(threads)
        try:
            if isinstance(request, EvaluationRequest):
                return Answer(self._ranks.evaluate(self._evaluator, request))
            return Answer(Tested(request.id, self._ranks.measure_test(self._evaluator, request)))
        except (Exception, SystemExit) as error:
            return Answer(error=_plain(error), lost=isinstance(error, SearchError))

    def follow(self, threads: int) -> Answer:
        """Takes part in what the process of rank 0 is asked, until it is lost."""
        torch.set_num_threads(threads)
        try:
            return Answer(self._ranks.follow(self._evaluator))
        except (Exception, SystemExit) as error:
            return Answer(error=_plain(error), lost=True)


def _plain(error: BaseException) -> LemonadeError:
    """Returns an error of ours with the same text: one of a user's class may not be fit to travel."""
    for kind in type(error).__mro__:
        if kind.__module__ == LemonadeError.__module__:
            return cast(LemonadeError, kind(str(error)))
    return SearchError(in_one_line(error))


def _beat(number: int, beats: Any) -> None:  # noqa: ANN401
    """Gives signs of life for as long as somebody hears them: a process whose search is over ends, if Ray's order is lost."""
    deaf = 0
    while deaf < DEAF:
        heard = beats.beat.remote(number).future()
        time.sleep(BEAT)
        deaf = deaf + 1 if heard.done() and isinstance(heard.exception(), ActorDiedError) else 0
    os._exit(0)


def _prepare(action: Callable[[], None], *, needed: bool) -> None:
    """Runs `prepare_data` in one worker of a node at a time: those that come later find what the first one made."""
    if not needed:
        return
    path = Path(tempfile.gettempdir()) / f"lightning-lemonade-{os.getuid()}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        action()
