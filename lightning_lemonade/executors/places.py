"""Where children would be evaluated: devices, processes and how many at a time, found without starting any."""

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.evaluation import kept
from lightning_lemonade.executors.executor import Executor
from lightning_lemonade.executors.inline import InlineExecutor
from lightning_lemonade.executors.ray_executor import RayExecutor, _devices, _of_one_node, nodes_alive, room_for_children

REACHED_WITHIN = 3.0
"""Seconds in which a cluster's address must answer; Ray itself would try for twenty."""
_CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where children are evaluated.

    Attributes:
        by: who evaluates them, in words.
        has: what there is to compute with, in words.
        accelerator: what a child is trained on, as Lightning calls it: `cpu`, `cuda`, or `gpu` for one that isn't on this machine.
        processes: that train each child together, one on each device.
        slots: children at a time.
        devices: GPUs of each child, also a fraction; cores, where it is trained on the CPU.
        here: the accelerator to measure with on this machine.
        measured_devices: Lightning's `devices` for a measurement: one of those asked for.
        notes: what couldn't be seen from here, and what doesn't fit.
    """

    by: str
    has: str
    accelerator: str
    processes: int
    slots: int
    devices: float
    here: str
    measured_devices: int | list[int] = 1
    notes: Sequence[str] = field(default_factory=list)

    @property
    def at_hand(self) -> bool:
        """Whether this machine has the accelerator."""
        return self.here == self.accelerator

    @property
    def unit(self) -> str:
        """What is counted in hours."""
        return "core" if self.accelerator == _CPU else "GPU" if self.accelerator in ("cuda", "mps", "gpu") else self.accelerator.upper()


def places_of(executor: Executor, arguments: Mapping[str, Any], threads: int) -> Places:
    """Returns where an executor evaluates children; starts no process and joins no group. What isn't there is a note, no error.

    Args:
        executor: not open.
        arguments: of `pytorch_lightning.Trainer`.
        threads: torch's, of each process.

    Raises:
        ConfigurationError: if the executor, or Lightning, would refuse the arguments.
    """
    if isinstance(executor, RayExecutor):
        return _of_ray(executor, arguments)
    places = _inline(arguments, threads)
    if isinstance(executor, InlineExecutor):
        return places
    note = f"how many children a {type(executor).__name__} evaluates at a time isn't known: this counts with one"
    return Places(**{**vars(places), "by": f"by {type(executor).__name__}", "notes": [*places.notes, note]})


def _inline(arguments: Mapping[str, Any], threads: int) -> Places:
    wanted, here = _accelerator(arguments)
    available, notes = _available(here), list[str]()
    count, chosen = _count(arguments.get("devices", "auto"), available if wanted == here else None)
    if count is None:
        notes.append(f"devices isn't told, and accelerator {wanted} isn't here to count: this plans with one")
    elif wanted == here != _CPU and count > available:
        notes.append(f"devices={count}: this machine has {available}")
    elif wanted == here:
        _check_with_lightning(arguments)
    nodes = _nodes(arguments)
    processes = (count or 1) * nodes
    together = f" with {processes} processes together (DDP{f', {nodes} machines' if nodes > 1 else ''})" if processes > 1 else ""
    return Places(
        by=f"one child after the other{together}, by this program",
        has=f"this machine: {_machine()}",
        accelerator=wanted,
        processes=processes,
        slots=1,
        devices=processes * (threads if wanted == _CPU else 1),
        here=here,
        measured_devices=chosen[:1] if chosen and wanted == here and max(chosen) < available else 1,
        notes=notes,
    )


def _of_ray(executor: RayExecutor, arguments: Mapping[str, Any]) -> Places:
    nodes, name, notes = _nodes_of_cluster(executor.address)
    wanted, here = _accelerator(arguments)
    has_gpus = any(node.get("GPU") for node in nodes)
    if arguments.get("accelerator", "auto") != "auto":
        on_gpus = wanted != _CPU
    elif executor.gpus_per_child is not None:
        on_gpus = executor.gpus_per_child > 0
    else:
        on_gpus = has_gpus if nodes else wanted != _CPU
    if on_gpus:
        gpus = float(_devices(arguments, 1)) if executor.gpus_per_child is None else float(executor.gpus_per_child)
        wanted = wanted if wanted != _CPU else "gpu"
        if nodes and not has_gpus and gpus:
            notes.append(f"{name} has no GPU: there a search would refuse accelerator={arguments.get('accelerator', 'auto')}")
        elif not gpus:
            notes.append("gpus_per_child=0: a search would refuse it, since the accelerator needs a GPU")
    else:
        gpus = 0.0
    size = _devices(arguments, gpus)
    _of_one_node(arguments, size, gpus)
    room = sum(room_for_children(node, executor.cpus_per_child, gpus) for node in nodes)
    if nodes and not (executor.cpus_per_child or gpus):  # for which Ray has room everywhere
        room = executor.workers or room
    if nodes and not room and (has_gpus or not gpus):
        notes.append(f"{name} has no room for a child of {executor.cpus_per_child:g} CPU and {gpus:g} GPU: there a search would refuse it")
    slots = min(room or (executor.workers or 1), executor.workers or room or 1)
    if not room:
        notes.append(f"so this counts with {_children(slots)} at a time: with N times as many, N times as many are trained in the time")
    with_each = f"{gpus:g} GPU and {executor.cpus_per_child:g} CPU" if gpus else f"{executor.cpus_per_child:g} CPU"
    together = f", in {size} processes (DDP)" if size > 1 else ""
    return Places(
        by=f"{_children(slots)} at a time by Ray, each with {with_each}{together}",
        has=f"{name}: {_total(nodes)}" if nodes else f"this machine: {_machine()}",
        accelerator=wanted if gpus else _CPU,
        processes=size,
        slots=slots,
        devices=gpus or executor.cpus_per_child,
        here=here if gpus else _CPU,
        notes=notes,
    )


def _accelerator(arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the accelerator that is asked for and the one to measure with here: the same, or the CPU.

    Raises:
        ConfigurationError: if Lightning doesn't know it.
    """
    given = arguments.get("accelerator", "auto")
    if isinstance(given, Accelerator):
        given = next((name for name, known in AcceleratorRegistry.items() if known["accelerator"] is type(given)), "cpu")
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""
    if given == "auto":
        return (gpu or _CPU,) * 2
    if given == "gpu":
        return (gpu or "gpu", gpu or _CPU)
    if given not in AcceleratorRegistry:
        known = ", ".join(["auto", "gpu", *AcceleratorRegistry])
        raise ConfigurationError(f"Lightning refuses the strategy or devices: accelerator={given!r} is unknown; give one of {known}")
    return given, given if AcceleratorRegistry[given]["accelerator"].is_available() else _CPU


def _available(accelerator: str) -> int:
    """Returns how many devices of an accelerator this machine has; of CPUs one, which is what Lightning takes."""
    return 1 if accelerator in (_CPU, "mps") else int(AcceleratorRegistry[accelerator]["accelerator"].auto_device_count())


def _count(devices: Any, available: int | None) -> tuple[int | None, list[int]]:  # noqa: ANN401 (Lightning's)
    """Returns how many devices are asked for, None if as many as there are and that isn't known; and which, if that is said.

    Raises:
        ConfigurationError: if it is no number, and no list of numbers.
    """
    if str(devices) in ("auto", "-1"):
        return available, []
    try:
        if isinstance(devices, str) and "," in devices:
            devices = [part for part in devices.split(",") if part.strip()]
        if isinstance(devices, list | tuple):
            chosen = [int(device) for device in devices]
            return len(chosen), chosen
        if int(devices) > 0:
            return int(devices), []
    except (ValueError, TypeError):
        pass
    raise ConfigurationError(f"Lightning refuses the strategy or devices: devices={devices!r}; give how many of them each child gets")


def _nodes(arguments: Mapping[str, Any]) -> int:
    try:
        return max(1, int(arguments.get("num_nodes", 1)))
    except (ValueError, TypeError):
        raise ConfigurationError(f"num_nodes must be a whole number, got {arguments['num_nodes']!r}") from None


def _check_with_lightning(arguments: Mapping[str, Any]) -> None:
    """Raises a ConfigurationError if Lightning refuses devices or strategy; takes this process for the only one, launched or not."""
    given = {name: arguments[name] for name in ("accelerator", "devices", "num_nodes", "strategy") if name in arguments}
    try:
        Fabric(**given, plugins=[LightningEnvironment()])
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigurationError(f"Lightning refuses the strategy or devices: {error}") from error


def _nodes_of_cluster(address: str | None) -> tuple[list[Mapping[str, float]], str, list[str]]:
    """Returns what each node of a cluster has (nothing where it can't be reached), what the cluster is called, and notes."""
    import ray  # noqa: PLC0415

    if ray.is_initialized():
        return nodes_alive(), "the Ray cluster", []
    if address is None:  # begun anew on this machine, with all that Ray finds there
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        return [here], "this machine", []
    name = f"the Ray cluster {address!r}"
    try:
        _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        with kept(signal.SIGTERM):
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        try:
            return nodes_alive(), name, []
        finally:
            ray.shutdown()
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return [], name, [f"{name} can't be reached from here, so nothing is known of its machines ({why})"]


def _knock(address: str) -> None:
    """Raises an OSError if nobody listens at an address `host:port`."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()


def _children(count: int) -> str:
    return f"{count} {'children' if count > 1 else 'child'}"


def _total(nodes: Sequence[Mapping[str, float]]) -> str:
    cores, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    kinds = sorted({name.partition(":")[2] for node in nodes for name in node if name.startswith("accelerator_type:")})
    machines = f"{len(nodes)} machines with " if len(nodes) > 1 else ""
    found = f"{gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else "no GPU"
    return f"{machines}{cores:g} core{'s' if cores > 1 else ''} and {found}" + (f" ({', '.join(kinds)})" if kinds else "")


def _machine() -> str:
    return _total([{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}])
