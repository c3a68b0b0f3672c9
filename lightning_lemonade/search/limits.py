"""Hard limits on objectives."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from lightning_lemonade.errors import ConfigurationError


@dataclass(frozen=True)
class Limits:
    """Ranges that a candidate's objectives must lie in.

    Attributes:
        ranges: (low, high) by objective key, both ends allowed.
    """

    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def parse(cls, limits: Mapping[str, object] | None) -> "Limits":
        """Makes limits from `{"params": 2e6}` (at most) or `{"params": (1e4, 2e6)}` (between).

        Raises:
            ConfigurationError: if a limit is neither.
        """
        if limits is not None and not isinstance(limits, Mapping):
            raise ConfigurationError(f"limits must be given by name, for instance {{'params': 2e6}}, got {limits!r}")
        ranges = {}
        for key, value in (limits or {}).items():
            low_high = (0.0, value) if isinstance(value, int | float | str) else value
            try:
                low, high = (float(bound) for bound in low_high)  # type: ignore[attr-defined]
            except (TypeError, ValueError):
                raise ConfigurationError(f"limit of {key}: give one number or two, for instance 2e6 or [1e4, 2e6], got {value!r}") from None
            if not low <= high:
                raise ConfigurationError(f"limit of {key}: the lower bound {low:g} is above the upper one {high:g}")
            ranges[key] = (low, high)
        return cls(ranges)

    def within(self, other: "Limits") -> "Limits":
        """Returns the limits that hold where both do.

        Args:
            other: the space's.

        Raises:
            ConfigurationError: if nothing is left.
        """
        merged = dict(self.ranges)
        for key, (low, high) in other.ranges.items():
            mine = merged.get(key, (-inf, inf))
            merged[key] = (max(low, mine[0]), min(high, mine[1]))
            if merged[key][0] > merged[key][1]:
                raise ConfigurationError(
                    f"limit of {key}: {mine[0]:g} to {mine[1]:g}, but the space has networks from {low:g} to {high:g} only"
                )
        return Limits(merged)

    def violation(self, values: Mapping[str, float]) -> str:
        """Returns which limit these values break, in words, or an empty text. Objectives without a value are not judged."""
        for key, (low, high) in self.ranges.items():
            if key in values and not low <= values[key] <= high:
                return f"{key} {values[key]:g} is outside [{low:g}, {high:g}]"
        return ""
