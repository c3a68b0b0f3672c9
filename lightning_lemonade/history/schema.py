"""The tables of `history.sqlite`."""

from typing import Any

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, attribute_keyed_dict, mapped_column, relationship

SCHEMA_VERSION = 4
"""Counts up with every change of a table; a database holds it as SQLite's `user_version`."""
APPLICATION_ID = 0x4C454D4F
"""SQLite's `application_id` of our databases: "LEMO"."""
_PARTS: dict[str, Any] = {"cascade": "all, delete-orphan"}


class Base(DeclarativeBase):
    """Root of the tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 (SQLAlchemy's own declaration)


class RunRow(Base):
    """The search; one row."""

    __tablename__ = "run"
    id: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[str]
    config: Mapped[dict[str, Any]]
    bounds: Mapped[dict[str, Any]]
    tasks: Mapped[list[Any]]
    status: Mapped[str]
    stop_reason: Mapped[str]


class ObjectiveRow(Base):
    """An objective."""

    __tablename__ = "objective"
    position: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    unit: Mapped[str]
    stage: Mapped[str]


class ValueRow(Base):
    """An objective's value."""

    __tablename__ = "value"
    candidate: Mapped[int] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    objective: Mapped[str] = mapped_column(ForeignKey("objective.key"), primary_key=True)
    value: Mapped[float]
    spread: Mapped[float | None]


class TaskResultRow(Base):
    """What the training of one task gave, and the file of its weights."""

    __tablename__ = "task_result"
    candidate: Mapped[int] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    task: Mapped[str] = mapped_column(primary_key=True)
    start_error: Mapped[float | None]
    test_error: Mapped[float | None]
    metrics: Mapped[dict[str, Any]]
    epochs: Mapped[int]
    images: Mapped[int]
    teacher_images: Mapped[int]
    weights: Mapped[str | None]
    sha256: Mapped[str | None]


class PhaseRow(Base):
    """Seconds of a phase of a candidate's evaluation."""

    __tablename__ = "phase"
    candidate: Mapped[int] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    seconds: Mapped[float]


class CandidateRow(Base):
    """An accepted child and what became of it.

    `planned` are the epochs that it is to be trained for each task, where they aren't those of the settings; `expected` is what it was
    chosen for.
    In an asynchronous search `after` counts the children that it was told of before it accepted this one, and `told` those up to this one.
    """

    __tablename__ = "candidate"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None] = mapped_column(ForeignKey("candidate.id"))
    generation: Mapped[int]
    state: Mapped[str]
    failure_kind: Mapped[str | None]
    failure_text: Mapped[str | None]
    hash: Mapped[str]
    spec: Mapped[str]
    mutations: Mapped[list[Any]]
    epochs: Mapped[int] = mapped_column(default=0)
    images: Mapped[int] = mapped_column(default=0)
    cumulative_epochs: Mapped[int] = mapped_column(default=0)
    cumulative_images: Mapped[int] = mapped_column(default=0)
    after: Mapped[int | None]
    told: Mapped[int | None]
    planned: Mapped[int | None]
    expected: Mapped[dict[str, Any] | None]
    values: Mapped[dict[str, ValueRow]] = relationship(collection_class=attribute_keyed_dict("objective"), **_PARTS)
    results: Mapped[dict[str, TaskResultRow]] = relationship(collection_class=attribute_keyed_dict("task"), **_PARTS)
    phases: Mapped[list[PhaseRow]] = relationship(**_PARTS)


class AskedRow(Base):
    """How many legal proposals the children of a generation were chosen from; there as soon as they are."""

    __tablename__ = "asked"
    generation: Mapped[int] = mapped_column(primary_key=True)
    proposed: Mapped[int]


class GenerationPhaseRow(Base):
    """Seconds of a phase of a generation."""

    __tablename__ = "generation_phase"
    generation: Mapped[int] = mapped_column(ForeignKey("generation.index"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    seconds: Mapped[float]


class FrontMemberRow(Base):
    """A member of the population at the end of a generation, at its place in it."""

    __tablename__ = "front_member"
    generation: Mapped[int] = mapped_column(ForeignKey("generation.index"), primary_key=True)
    candidate: Mapped[int] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    position: Mapped[int]


class GenerationRow(Base):
    """A finished generation."""

    __tablename__ = "generation"
    index: Mapped[int] = mapped_column(primary_key=True)
    hypervolume: Mapped[float]
    proposed: Mapped[int]
    accepted: Mapped[int]
    evaluated: Mapped[int]
    failed: Mapped[int]
    total_epochs: Mapped[int]
    phases: Mapped[list[GenerationPhaseRow]] = relationship(**_PARTS)
    members: Mapped[list[FrontMemberRow]] = relationship(order_by=FrontMemberRow.position, **_PARTS)
