"""Which clip regime holds at which iteration of an epoch."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from fastplan.clips import ClipSpec


@dataclass(frozen=True)
class Regime:
    """Which frames, how large, and how many clips at once."""

    spec: ClipSpec
    batch_size: int


class Schedule:
    """Regimes by the iteration from which they hold."""

    def __init__(self, first: Regime) -> None:
        self._begins = [0]
        self._regimes = [first]

    @classmethod
    def of(cls, regimes: Sequence[Regime]) -> "Schedule":
        """One regime per iteration, the last of them for all that come after."""
        schedule = cls(regimes[0])
        for iteration, (before, regime) in enumerate(pairwise(regimes), 1):
            if regime != before:
                schedule.change(iteration, regime)
        return schedule

    def at(self, iteration: int) -> Regime:
        """The regime of an iteration."""
        return self._regimes[bisect_right(self._begins, iteration) - 1]

    def change(self, iteration: int, regime: Regime) -> None:
        """Let a regime hold from an iteration on, up to the next change that is planned."""
        place = bisect_right(self._begins, iteration)
        if self._begins[place - 1] == iteration:
            self._regimes[place - 1] = regime
        else:
            self._begins.insert(place, iteration)
            self._regimes.insert(place, regime)

    def last(self) -> Regime:
        """The regime in which the epoch ends."""
        return self._regimes[-1]

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values that JSON holds."""
        pairs = zip(self._begins, self._regimes, strict=True)
        return [{"from": begin, "batch_size": r.batch_size, "clip": asdict(r.spec)} for begin, r in pairs]

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> "Schedule":
        """The inverse of `to_list`."""
        regimes = [Regime(ClipSpec(**row["clip"]), row["batch_size"]) for row in rows]
        schedule = cls(regimes[0])
        for row, regime in zip(rows, regimes, strict=True):
            schedule.change(row["from"], regime)
        return schedule
