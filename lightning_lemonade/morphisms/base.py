"""Mutation: one change of a network, as plain data, with its two halves kept apart.

`rewrite` changes the spec (pure, fast, without torch), so that a search can judge thousands of proposals; `transfer` moves the weights,
only for the children that were accepted.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, fx

from lightning_lemonade.errors import MutationError, SpecError
from lightning_lemonade.graph import GraphSpec, spec_of
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.state import State, network_with

Site = tuple[str, ...]
"""Where a mutation applies: one node id for each of its site fields."""
MAX_SITES = 4096

KINDS: dict[str, type["Mutation"]] = {}
"""Every kind of mutation by its name in JSON."""


@dataclasses.dataclass(frozen=True)
class Mutation(ABC):
    """One change: an operator, the sites where it applies, and its arguments.

    Subclasses are frozen dataclasses. Their first fields, named in `site_fields`, hold node ids: a text for one site, or a tuple of texts
    for the same change at many places (a cell that repeats). Subclasses register themselves under `kind`.
    """

    kind: ClassVar[str] = ""
    """The name in JSON."""
    exact: ClassVar[bool]
    """Whether the child computes the parent's function (a morphism) or approximates it."""
    site_fields: ClassVar[tuple[str, ...]] = ("node",)
    together: ClassVar[bool] = False
    """Whether all sites change in one step, since they may share what changes: `rewrite_at` and `transfer_at` then get one site, which
    holds the nodes of all. Otherwise the sites change one after the other."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Registers the kind.

        Raises:
            TypeError: if another class has the name.
        """
        super().__init_subclass__(**kwargs)
        if cls.kind:
            other = KINDS.setdefault(cls.kind, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"the mutation kind {cls.kind!r} belongs to {other.__qualname__} already")
            KINDS[cls.kind] = cls

    def __post_init__(self) -> None:
        """Normalises the sites.

        Raises:
            MutationError: if a site is no node id or named twice, or the fields name different numbers of sites.
        """
        columns = []
        for name in self.site_fields:
            value = getattr(self, name)
            column = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
            if not 0 < len(column) <= MAX_SITES or not all(isinstance(node_id, str) for node_id in column):
                raise MutationError(f"{self.kind}: {name} must be a node id or a list of node ids, got {shown(value)}")
            object.__setattr__(self, name, column[0] if len(column) == 1 else column)
            columns.append(column)
        if len(set(map(len, columns))) != 1:
            raise MutationError(f"{self.kind}: {', '.join(self.site_fields)} must name equally many nodes")
        if len(set(self.places)) != len(self.places):
            raise MutationError(f"{self.kind}: a site is named twice")

    @property
    def places(self) -> tuple[Site, ...]:
        """The sites, each as one node id per site field."""
        values = [getattr(self, name) for name in self.site_fields]
        columns = [(value,) if isinstance(value, str) else value for value in values]
        return tuple(zip(*columns, strict=True))

    @classmethod
    @abstractmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """Returns every site of a graph where this kind applies."""

    @abstractmethod
    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """Returns the graph after the change at one valid site. Pure, and without torch."""

    @abstractmethod
    def transfer_at(
        self,
        parent: GraphSpec,
        state: State,
        child: GraphSpec,
        site: Site,
        calibration: Tensor,
        generator: Generator,
    ) -> State:
        """Returns the child's weights after the change at one site; never changes the parent's tensors in place."""

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments besides the sites."""
        fields = [field.name for field in dataclasses.fields(self) if field.name not in self.site_fields]
        return {name: getattr(self, name) for name in fields}

    def rewrite(self, spec: GraphSpec) -> GraphSpec:
        """Returns the graph after the change at all sites. Untouched nodes keep their ids.

        Raises:
            MutationError: if the change doesn't apply at one of them.
        """
        return self._steps(spec)[-1][2]

    def _steps(self, spec: GraphSpec) -> list[tuple[Site, GraphSpec, GraphSpec]]:
        """Returns (site, graph before, graph after), step by step."""
        steps = []
        for places in [self.places] if self.together else [(place,) for place in self.places]:
            self._check(spec, places)
            site = tuple(node_id for place in places for node_id in place)
            try:
                after = self.rewrite_at(spec, site)
            except (SpecError, ValueError) as error:  # ValueError: a node with too many channels
                raise MutationError(f"{shown(str(self))} gives no valid graph: {error}") from error
            steps.append((site, spec, after))
            spec = after
        return steps

    def _check(self, spec: GraphSpec, places: tuple[Site, ...]) -> None:
        """Raises MutationError if a place is none of the sites of a graph."""
        possible = set(self.sites(spec))
        for place in places:
            if place not in possible:
                where = ", ".join(f"{name}={shown(node_id)}" for name, node_id in zip(self.site_fields, place, strict=True))
                raise MutationError(f"{self.kind} doesn't apply at {where}; {type(self).__name__}.sites(spec) lists where it does")

    def transfer(
        self,
        parent: GraphSpec,
        state: Mapping[str, Tensor],
        child: GraphSpec,
        calibration: Tensor,
        generator: Generator,
    ) -> State:
        """Returns the child's weights, made from the parent's.

        Args:
            parent: the graph before the change.
            state: its weights; left as they are. Tensors that the change doesn't touch are the parent's own, not copies.
            child: the graph after the change, as `rewrite` gave it.
            calibration: (batch, *parent.input_shape), at least two training samples, without augmentation.
            generator: a CPU generator; all draws of new weights come from it.

        Returns:
            The child's state dict.

        Raises:
            MutationError: if `child` isn't what this mutation makes of `parent`, or the calibration batch doesn't fit `parent`.
        """
        made, weights = self.descend(parent, state, calibration, generator)
        if made != child:
            raise MutationError(f"{shown(str(self))}: the child's graph isn't what this mutation makes of the parent's")
        return weights

    def descend(self, parent: GraphSpec, state: Mapping[str, Tensor], calibration: Tensor, generator: Generator) -> tuple[GraphSpec, State]:
        """Returns the child's graph and its weights: `rewrite` and `transfer` in one, without doing the former twice.

        Raises:
            MutationError: see both.
        """
        _check_types(calibration, generator)
        if len(calibration) < 2 or tuple(calibration.shape[1:]) != parent.input_shape:
            given, wanted = tuple(calibration.shape), ", ".join(map(str, parent.input_shape))
            raise MutationError(f"the calibration batch must have the shape (2 or more, {wanted}), got {given}")
        if not calibration.isfinite().all():
            raise MutationError("the calibration batch holds values that aren't finite: clean the data")
        odd = [name for name, tensor in state.items() if not tensor.isfinite().all()]
        if odd:
            raise MutationError(f"the parent's weights aren't finite: {', '.join(odd[:5])}; train it anew with a lower learning rate")
        weights = dict(state)
        with torch.no_grad():
            child = parent
            for site, before, child in self._steps(parent):
                weights = self.transfer_at(before, weights, child, site, calibration, generator)
        self._check_finite(state, weights)
        return child, weights

    def _check_finite(self, state: Mapping[str, Tensor], weights: State) -> None:
        """Raises MutationError where new weights aren't finite."""
        for name, tensor in weights.items():
            if (name not in state or tensor is not state[name]) and not tensor.isfinite().all():
                raise MutationError(
                    f"{shown(str(self))} gives weights that aren't finite ({name}): the network's values are too large "
                    f"for {tensor.dtype}, so make the change in float32"
                )

    def apply(self, network: fx.GraphModule, calibration: Tensor, generator: Generator) -> fx.GraphModule:
        """Returns a changed copy of a network, in its precision and on its device; the network itself stays. For use without a search.

        Parameters that are frozen in the network (`requires_grad`) are so in the copy.

        Args:
            network: made by `lightning_lemonade.graph.build`.
            calibration: (batch, *input shape), training samples without augmentation.
            generator: a CPU generator for new weights.

        Raises:
            MutationError: if the change doesn't apply.
        """
        parent = spec_of(network)
        state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        changed = network_with(*self.descend(parent, state, calibration, generator))
        frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        for name, parameter in changed.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return changed.train(network.training)

    def to_dict(self) -> dict[str, Any]:
        """Returns the mutation as JSON values; arguments that are None are left out."""
        values: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def at(cls, site: Site, **arguments: object) -> Self:
        """Makes a mutation for one site."""
        return cls(**dict(zip(cls.site_fields, site, strict=True)), **arguments)

    def __str__(self) -> str:
        """Returns a short readable form with the arguments that aren't at their default, for instance `widen(n3, factor=2)`."""
        places = " ".join(">".join(site) for site in self.places)
        default = {field.name: field.default for field in dataclasses.fields(self)}
        arguments = "".join(f", {name}={value}" for name, value in self.arguments().items() if value != default[name])
        return f"{self.kind}({places}{arguments})"


def _check_types(calibration: object, generator: object) -> None:
    if not isinstance(calibration, Tensor) or not isinstance(generator, Generator):
        given = f"{type(calibration).__name__} and {type(generator).__name__}"
        raise MutationError(f"a calibration batch (a tensor of samples alone) and a torch.Generator are needed, got {given}")


def mutation_from_dict(data: object) -> Mutation:
    """Makes a mutation from JSON values.

    Raises:
        MutationError: if they don't describe one.
    """
    if not isinstance(data, dict):
        raise MutationError(f"a mutation must be an object, got {type(data).__name__}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise MutationError(f"unknown mutation kind {shown(kind)}; known: {', '.join(sorted(KINDS))}")
    arguments = {name: value for name, value in data.items() if name != "kind"}
    known = {field.name for field in dataclasses.fields(KINDS[kind])}
    unknown = sorted(map(shown, set(arguments) - known))
    if unknown:
        raise MutationError(f"{kind} has no argument {', '.join(unknown[:6])}; it has: {', '.join(sorted(known))}")
    try:
        return KINDS[kind](**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:  # whatever a user's own kind makes of odd values
        raise MutationError(f"{kind}: {error}") from error
