"""Channel groups: whatever is resized with its group stays valid, and groups are no larger than they must be."""

import itertools
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chain, graph, named, specs

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph import GraphSpec, Node, ops

RANDOM = st.randoms(use_true_random=True)


def resized(spec: GraphSpec, sizes: Mapping[int, int], only: Iterable[str] | None = None) -> GraphSpec:
    """The spec with other group sizes, written into all producers (or into `only` these)."""
    nodes = []
    for node in spec.nodes:
        width = spec.channels.width(node.id, sizes)
        op: ops.Op = node.op
        if (only is None or node.id in only) and width != spec.shapes[node.id][0]:
            if isinstance(op, ops.Conv2d):
                depthwise = op.is_depthwise(spec.input_shapes(node.id)[0][0])
                op = replace(op, out_channels=width, groups=width if depthwise else op.groups)
            elif isinstance(op, ops.Linear):
                op = replace(op, out_features=width)
        nodes.append(replace(node, op=op))
    return GraphSpec(tuple(nodes))


def free_groups(spec: GraphSpec) -> list[int]:
    return [index for index, group in enumerate(spec.channels.groups) if not group.frozen]


def widths(spec: GraphSpec, name: str) -> list[int]:
    return [segment.size for segment in spec.channels.segments[named(spec, name)]]


def groups(spec: GraphSpec, name: str) -> list[int]:
    return [segment.group for segment in spec.channels.segments[named(spec, name)]]


def frozen(spec: GraphSpec, name: str) -> str:
    return spec.channels.frozen_reason(named(spec, name))


def fixed_by(spec: GraphSpec, name: str, why: str) -> str:
    node = spec[named(spec, name)]
    return f"fixed by {node.id} ({node.op.name}): {why}"


HEAD: dict[str, tuple[ops.Op, str]] = {"pool": (ops.GlobalPool2d(), "last"), "fc": (ops.Linear(10), "pool"), "out": (ops.Output(), "fc")}


def image(channels: int = 3) -> tuple[ops.Op, str]:
    return ops.Input((channels, 8, 8)), ""


def conv(channels: int, source: str) -> tuple[ops.Op, str]:
    return ops.Conv2d(channels, 3, padding=1), source


# What holds for every spec


@given(specs(max_steps=12))
@settings(max_examples=100, deadline=None)
def test_segments_fill_every_output(spec: GraphSpec) -> None:
    for node_id, shape in spec.shapes.items():
        assert sum(segment.size * segment.repeat for segment in spec.channels.segments[node_id]) == shape[0]
        assert spec.channels.width(node_id, {}) == shape[0]
        assert spec.channels.groups_of(node_id) == tuple(dict.fromkeys(segment.group for segment in spec.channels.segments[node_id]))


@given(specs(max_steps=12))
@settings(max_examples=100, deadline=None)
def test_groups_list_their_producers(spec: GraphSpec) -> None:
    for index, group in enumerate(spec.channels.groups):
        makers = [node.id for node in spec.nodes if isinstance(node.op, ops.Conv2d | ops.Linear | ops.Input)]
        assert group.producers == tuple(node_id for node_id in makers if index in spec.channels.groups_of(node_id))
        assert group.producers


@given(specs(max_steps=12))
@settings(max_examples=100, deadline=None)
def test_segments_of_a_free_group_have_its_size(spec: GraphSpec) -> None:
    for index in free_groups(spec):
        sizes = {segment.size for row in spec.channels.segments.values() for segment in row if segment.group == index}
        assert sizes == {spec.channels.groups[index].size}


@given(specs(max_steps=12), RANDOM)
@settings(max_examples=100, deadline=None)
def test_a_group_resized_at_all_its_producers_gives_a_valid_spec(spec: GraphSpec, rng: random.Random) -> None:
    for index in free_groups(spec):
        size = rng.choice([1, 2, spec.channels.groups[index].size + 1, 19])
        child = resized(spec, {index: size})
        assert {node_id: shape[0] for node_id, shape in child.shapes.items()} == {
            node_id: spec.channels.width(node_id, {index: size}) for node_id in spec.shapes
        }


@given(specs(max_steps=12), RANDOM)
@settings(max_examples=100, deadline=None)
def test_all_groups_resized_at_once_give_a_valid_spec(spec: GraphSpec, rng: random.Random) -> None:
    sizes = {index: rng.randint(1, 9) for index in free_groups(spec)}
    child = resized(spec, sizes)
    assert child.output_shape == spec.output_shape
    assert child.input_shape == spec.input_shape


@given(specs(max_steps=12), RANDOM)
@settings(max_examples=100, deadline=None)
def test_a_producer_resized_without_the_others_of_its_group_gives_no_valid_spec(spec: GraphSpec, rng: random.Random) -> None:
    for index in free_groups(spec):
        group = spec.channels.groups[index]
        for producer in group.producers if len(group.producers) > 1 else ():
            with pytest.raises(SpecError):
                resized(spec, {index: group.size + 1}, only=[producer])


@given(specs(max_steps=12))
@settings(max_examples=100, deadline=None)
def test_frozen_groups_say_why(spec: GraphSpec) -> None:
    for group in spec.channels.groups:
        culprit = next((node for node in spec.nodes if node.id in group.frozen.replace("(", " ").replace(")", " ").split()), None)
        if group.frozen:
            assert culprit is not None, group.frozen
            assert isinstance(culprit.op, ops.Input | ops.Output | ops.Conv2d | ops.Join | ops.Flatten)


class Reference:
    """The finest grouping, worked out channel by channel: values are rows of (producer, channel, features for each channel)."""

    def __init__(self, spec: GraphSpec) -> None:
        self.above: dict[tuple[str, int], tuple[str, int]] = {}
        self.frozen: set[tuple[str, int]] = set()
        self.regular = True  # whether no join mixes channels with features of another kind
        self.rows: dict[str, list[tuple[str, int, int]]] = {}
        for node in spec.nodes:
            self.rows[node.id] = self.row(node, spec)

    def find(self, channel: tuple[str, int]) -> tuple[str, int]:
        while channel in self.above:
            channel = self.above[channel]
        return channel

    def tie(self, a: tuple[str, int], b: tuple[str, int]) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.above[b] = a

    def row(self, node: Node, spec: GraphSpec) -> list[tuple[str, int, int]]:
        read = [self.rows[source] for source in node.inputs]
        match node.op:
            case ops.Concat():
                return [entry for row in read for entry in row]
            case ops.Flatten():
                positions = prod(spec.input_shapes(node.id)[0][1:])
                return [(producer, channel, repeat * positions) for producer, channel, repeat in read[0]]
            case ops.Input() | ops.Conv2d() | ops.Linear():
                return self.made(node, read, spec.shapes[node.id][0])
            case ops.Output():
                self.freeze(read[0])
            case _:
                assert isinstance(node.op, ops.Join | ops.PassThrough)
                for row in read:
                    self.join(read[0], row)
        return read[0]

    def made(self, node: Node, read: list[list[tuple[str, int, int]]], channels: int) -> list[tuple[str, int, int]]:
        row = [(node.id, channel, 1) for channel in range(channels)]
        if isinstance(node.op, ops.Input):
            self.freeze(row)
        elif isinstance(node.op, ops.Conv2d) and node.op.is_depthwise(len(read[0])):
            self.join(read[0], row)
        elif isinstance(node.op, ops.Conv2d) and node.op.groups > 1:
            self.freeze([*row, *read[0]])
        return row

    def join(self, first: list[tuple[str, int, int]], second: list[tuple[str, int, int]]) -> None:
        if [repeat for *_, repeat in first] != [repeat for *_, repeat in second]:
            self.regular = False
            return
        for (a, i, _), (b, j, _) in zip(first, second, strict=True):
            self.tie((a, i), (b, j))

    def freeze(self, row: Iterable[tuple[str, int, int]]) -> None:
        self.frozen |= {(producer, channel) for producer, channel, _ in row}

    def segments(self) -> dict[str, list[tuple[list[tuple[str, int]], int]]]:
        """Runs of tied channels that stand side by side, in this order, wherever any of them stands."""
        rows = {
            node_id: [(self.find((producer, channel)), repeat) for producer, channel, repeat in row] for node_id, row in self.rows.items()
        }
        after: dict[tuple[str, int], set[tuple[str, int] | None]] = {}
        before: dict[tuple[str, int], set[tuple[str, int] | None]] = {}
        for row in rows.values():
            tied = [None, *(channel for channel, _ in row), None]
            for left, right in itertools.pairwise(tied):
                if left is not None:
                    after.setdefault(left, set()).add(right)
                if right is not None:
                    before.setdefault(right, set()).add(left)
        found: dict[str, list[tuple[list[tuple[str, int]], int]]] = {}
        for node_id, row in rows.items():
            found[node_id] = []
            for channel, repeat in row:
                last = found[node_id][-1][0][-1] if found[node_id] else None
                if last is not None and after[last] == {channel} and before[channel] == {last}:
                    found[node_id][-1][0].append(channel)
                else:
                    found[node_id].append(([channel], repeat))
        return found


def check_finest(spec: GraphSpec) -> None:
    reference = Reference(spec)
    if not reference.regular:
        return
    locked = {reference.find(channel) for channel in reference.frozen}
    members: dict[int, list[tuple[str, int]]] = {}
    for node_id, runs in reference.segments().items():
        segments = spec.channels.segments[node_id]
        assert [(segment.size, segment.repeat) for segment in segments] == [(len(run), repeat) for run, repeat in runs]
        for segment, (run, _) in zip(segments, runs, strict=True):
            assert members.setdefault(segment.group, run) == run
    owners = [channel for run in members.values() for channel in run]
    assert len(owners) == len(set(owners))
    assert {g for g, run in members.items() if locked & set(run)} == {g for g in members if spec.channels.groups[g].frozen}


@given(specs(max_steps=14))
@settings(max_examples=200, deadline=None)
def test_groups_are_the_finest(spec: GraphSpec) -> None:
    check_finest(spec)


# Cases


def test_an_add_of_a_concat_and_a_convolution_cuts_the_convolution() -> None:
    spec = graph(
        x=image(), a=conv(8, "x"), b=conv(4, "x"), ab=(ops.Concat(), "a b"), c=conv(12, "x"), last=(ops.Add(), "ab c"), **HEAD
    )  # fmt: skip
    assert widths(spec, "c") == widths(spec, "last") == [8, 4]
    assert groups(spec, "c") == groups(spec, "a") + groups(spec, "b")
    assert groups(spec, "a") != groups(spec, "b")
    assert resized(spec, dict.fromkeys(groups(spec, "a"), 5)).shapes[named(spec, "c")][0] == 9
    check_finest(spec)


def test_cuts_travel_up_and_down_through_several_joins() -> None:
    spec = graph(
        x=image(), a=conv(2, "x"), b=conv(6, "x"), ab=(ops.Concat(), "a b"), c=conv(3, "x"), d=conv(5, "x"), cd=(ops.Concat(), "c d"),
        e=conv(8, "x"), f=(ops.Add(), "ab e"), g=(ops.Mix(), "e cd"), last=(ops.Add(), "f g"), **HEAD
    )  # fmt: skip
    assert widths(spec, "e") == [2, 1, 5]
    assert widths(spec, "b") == [1, 5]
    assert widths(spec, "c") == [2, 1]
    assert groups(spec, "e") == groups(spec, "a") + groups(spec, "b")
    check_finest(spec)


def test_a_residual_stage_is_one_group_and_its_inner_channels_are_their_own() -> None:
    spec = graph(
        x=image(), stem=conv(8, "x"), a1=conv(4, "stem"), n1=(ops.BatchNorm2d(), "a1"), r1=(ops.Activation(), "n1"), a2=conv(8, "r1"),
        s1=(ops.Add(), "stem a2"),
        b1=conv(4, "s1"), b2=conv(8, "b1"), last=(ops.Add(), "b2 s1"), **HEAD
    )  # fmt: skip
    stage = groups(spec, "stem")
    assert groups(spec, "a2") == groups(spec, "b2") == groups(spec, "last") == groups(spec, "pool") == stage
    assert spec.channels.groups[stage[0]].producers == tuple(named(spec, name) for name in ("stem", "a2", "b2"))
    assert groups(spec, "a1") == groups(spec, "r1")
    assert len({*stage, *groups(spec, "a1"), *groups(spec, "b1")}) == 3
    assert not frozen(spec, "stem")
    check_finest(spec)


def test_a_depthwise_convolution_follows_its_input() -> None:
    spec = graph(x=image(), a=conv(6, "x"), d=(ops.Conv2d(6, 3, padding=1, groups=6), "a"), last=conv(4, "d"), **HEAD)
    assert groups(spec, "a") == groups(spec, "d") != groups(spec, "last")
    child = resized(spec, dict.fromkeys(groups(spec, "d"), 9))
    assert child[named(spec, "d")].op == ops.Conv2d(9, 3, padding=1, groups=9)
    check_finest(spec)


def test_a_depthwise_convolution_on_the_input_is_frozen() -> None:
    spec = graph(x=image(), d=(ops.Conv2d(3, 3, padding=1, groups=3), "x"), last=conv(4, "d"), **HEAD)
    assert frozen(spec, "d") == "fixed by n0 (input): the network's input"


def test_the_gate_of_squeeze_and_excitation_follows_what_it_gates() -> None:
    spec = graph(
        x=image(), a=conv(6, "x"), squeeze=(ops.AdaptivePool2d("avg", 1), "a"), narrow=(ops.Conv2d(2, 1), "squeeze"),
        wide=(ops.Conv2d(6, 1), "narrow"), gate=(ops.Activation("sigmoid"), "wide"), last=(ops.Mul(), "gate a"), **HEAD
    )  # fmt: skip
    assert groups(spec, "gate") == groups(spec, "a") == groups(spec, "last") != groups(spec, "narrow")
    assert not frozen(spec, "narrow")
    check_finest(spec)


def test_a_flatten_repeats_each_channel_once_for_each_position() -> None:
    spec = graph(
        x=image(),
        a=conv(4, "x"),
        flat=(ops.Flatten(), "a"),
        drop=(ops.Dropout(), "flat"),
        fc=(ops.Linear(10), "drop"),
        out=(ops.Output(), "fc"),
    )
    segment = spec.channels.segments[named(spec, "drop")][0]
    assert (segment.size, segment.repeat) == (4, 64)
    assert not frozen(spec, "drop")
    assert resized(spec, {segment.group: 5}).shapes[named(spec, "drop")] == (320,)
    check_finest(spec)


def test_flattened_concats_keep_their_parts() -> None:
    spec = graph(
        x=image(),
        a=conv(4, "x"),
        b=conv(2, "x"),
        ab=(ops.Concat(), "a b"),
        flat=(ops.Flatten(), "ab"),
        fc=(ops.Linear(10), "flat"),
        out=(ops.Output(), "fc"),
    )
    assert groups(spec, "flat") == groups(spec, "a") + groups(spec, "b")
    assert widths(spec, "flat") == [4, 2]
    check_finest(spec)


def test_flattened_tensors_of_one_size_join_as_their_channels_do() -> None:
    spec = graph(
        x=image(), a=conv(4, "x"), b=conv(4, "x"), fa=(ops.Flatten(), "a"), fb=(ops.Flatten(), "b"), sum=(ops.Add(), "fa fb"),
        fc=(ops.Linear(10), "sum"), out=(ops.Output(), "fc"),
    )  # fmt: skip
    assert groups(spec, "a") == groups(spec, "b") == groups(spec, "sum")
    assert not frozen(spec, "sum")


def test_parts_of_different_kinds_join_part_by_part() -> None:
    spec = graph(
        x=image(), a=conv(2, "x"), b=conv(2, "x"), fa=(ops.Flatten(), "a"), fb=(ops.Flatten(), "b"), va=(ops.GlobalPool2d(), "a"),
        c=(ops.Linear(5), "va"), d=(ops.Linear(5), "va"), ac=(ops.Concat(), "fa c"), bd=(ops.Concat(), "fb d"), sum=(ops.Add(), "ac bd"),
        fc=(ops.Linear(10), "sum"), out=(ops.Output(), "fc"),
    )  # fmt: skip
    assert groups(spec, "a") == groups(spec, "b")
    assert groups(spec, "c") == groups(spec, "d")
    assert not frozen(spec, "sum")
    check_finest(spec)


def test_a_flatten_joined_with_features_is_frozen() -> None:
    spec = graph(
        x=image(), a=conv(2, "x"), flat=(ops.Flatten(), "a"), pool=(ops.GlobalPool2d(), "a"),
        f=(ops.Linear(128), "pool"), free=(ops.Linear(3), "f"),
        sum=(ops.Mul(), "flat f"), both=(ops.Concat(), "sum free"), fc=(ops.Linear(10), "both"), out=(ops.Output(), "fc"),
    )  # fmt: skip
    assert frozen(spec, "a") == frozen(spec, "f") == fixed_by(spec, "sum", "it joins whole channels with single positions behind a flatten")
    assert not frozen(spec, "free")


def test_a_cut_inside_a_flattened_channel_freezes_it() -> None:
    spec = graph(
        x=image(), a=conv(2, "x"), flat=(ops.Flatten(), "a"), pool=(ops.GlobalPool2d(), "a"),
        f=(ops.Linear(100), "pool"), g=(ops.Linear(28), "pool"),
        fg=(ops.Concat(), "f g"), sum=(ops.Add(), "flat fg"), fc=(ops.Linear(10), "sum"), out=(ops.Output(), "fc"),
    )  # fmt: skip
    assert frozen(spec, "a") == fixed_by(spec, "flat", "what joins it is split between positions of one channel")
    assert frozen(spec, "f")
    assert frozen(spec, "g")
    assert spec.channels.width(named(spec, "sum"), {}) == 128


def test_a_grouped_convolution_freezes_what_it_reads_and_makes() -> None:
    spec = graph(x=image(), a=conv(6, "x"), g=(ops.Conv2d(4, 3, padding=1, groups=2), "a"), last=conv(4, "g"), **HEAD)
    assert frozen(spec, "a") == frozen(spec, "g") == fixed_by(spec, "g", "a convolution in 2 groups")
    assert not frozen(spec, "last")
    check_finest(spec)


def test_a_depthwise_convolution_of_several_filters_for_each_channel_is_frozen() -> None:
    spec = graph(x=image(), a=conv(6, "x"), g=(ops.Conv2d(12, 3, padding=1, groups=6), "a"), last=conv(4, "g"), **HEAD)
    assert frozen(spec, "a") == fixed_by(spec, "g", "a convolution in 6 groups")


def test_input_and_output_are_frozen() -> None:
    spec = chain(ops.Input((3, 8, 8)), ops.Conv2d(6, 1), ops.GlobalPool2d(), ops.Linear(5), ops.Activation(), ops.Output())
    reasons = [spec.channels.frozen_reason(node.id) for node in spec.nodes]
    assert reasons == ["fixed by n0 (input): the network's input", "", "", *["fixed by n5 (output): the network's output"] * 3]


def test_what_is_added_to_the_input_is_frozen() -> None:
    spec = graph(x=image(), a=conv(3, "x"), b=conv(3, "a"), last=(ops.Add(), "x b"), **HEAD)
    assert frozen(spec, "b") == "fixed by n0 (input): the network's input"
    assert not frozen(spec, "a")


def test_a_node_concatenated_with_itself_is_one_group_twice() -> None:
    spec = graph(x=image(), a=conv(4, "x"), aa=(ops.Concat(), "a a"), c=conv(8, "x"), last=(ops.Add(), "aa c"), **HEAD)
    assert groups(spec, "c") == groups(spec, "a") * 2
    assert resized(spec, dict.fromkeys(groups(spec, "a"), 5)).shapes[named(spec, "c")][0] == 10
    check_finest(spec)


def test_two_orders_of_one_concat_cut_down_to_a_common_size() -> None:
    spec = graph(
        x=image(), a=conv(2, "x"), b=conv(6, "x"), ab=(ops.Concat(), "a b"), ba=(ops.Concat(), "b a"), last=(ops.Add(), "ab ba"), **HEAD
    )
    assert widths(spec, "b") == [2, 2, 2]
    assert len({*groups(spec, "a"), *groups(spec, "b")}) == 1
    check_finest(spec)


def test_many_cuts_are_found_in_good_time() -> None:
    spec = graph(
        x=image(), a=conv(1, "x"), b=conv(3000, "x"), ab=(ops.Concat(), "a b"), ba=(ops.Concat(), "b a"), last=(ops.Add(), "ab ba"), **HEAD
    )
    start = time.process_time()
    assert widths(spec, "b") == [1] * 3000
    assert time.process_time() - start < 2


def test_a_cut_at_the_end_of_a_long_chain_reaches_its_start_in_good_time() -> None:
    body = [Node(f"n{i}", ops.Activation(), (f"n{i - 1}",)) for i in range(2, 3000)]
    tail = [
        Node("n3000", ops.Conv2d(4, 1), ("n0",)),
        Node("n3001", ops.Conv2d(4, 1), ("n0",)),
        Node("n3002", ops.Concat(), ("n3000", "n3001")),
        Node("n3003", ops.Add(), ("n2999", "n3002")),
        Node("n3004", ops.GlobalPool2d(), ("n3003",)),
        Node("n3005", ops.Output(), ("n3004",)),
    ]
    spec = GraphSpec((Node("n0", ops.Input((3, 2, 2))), Node("n1", ops.Conv2d(8, 1), ("n0",)), *body, *tail))
    start = time.process_time()
    assert [segment.size for segment in spec.channels.segments["n1"]] == [4, 4]
    assert time.process_time() - start < 5
