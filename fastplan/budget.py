"""What a training may cost: `40h` of device time, `200e` epochs, or `3e6f` clip-frames of training."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fastplan.errors import UserError

Unit = Literal["epochs", "clip-frames", "hours"]

_UNITS: dict[str, tuple[Unit, float]] = {
    "e": ("epochs", 1.0),
    "f": ("clip-frames", 1.0),
    "h": ("hours", 1.0),
    "m": ("hours", 1 / 60),
}
_FORM = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)([efhm])")


class Epoch(Protocol):
    """A finished epoch, as a journal holds it."""

    @property
    def epoch(self) -> int:
        """Its number; 0 is the validation before training."""

    @property
    def clip_frames(self) -> int:
        """Frames trained on."""

    @property
    def seconds(self) -> float:
        """Of training, while the process ran."""

    @property
    def val_seconds(self) -> float:
        """Of the validation, likewise."""


@dataclass(frozen=True)
class Budget:
    """An amount, > 0, of a unit. Hours count training and validation, summed over all devices."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `40h`, `90m` (minutes), `200e` or `3e6f`. Raises `UserError` for any other form."""
        match = _FORM.fullmatch(str(text).strip())
        amount = float(match[1]) if match else 0.0
        if match is None or amount <= 0:
            raise UserError(f"'{text}' is no budget: write 40h or 90m (device time), 200e (epochs), 3e6f (clip-frames)")
        unit, factor = _UNITS[match[2]]
        return cls(amount * factor, unit)

    def __str__(self) -> str:
        return f"{self.amount:,.4g} {self.unit}" if self.unit == "hours" else f"{self.amount:,.0f} {self.unit}"

    def cost(self, epochs: Iterable[Epoch]) -> float:
        """What these epochs took of the budget, in its unit."""
        trained = list(epochs)
        if self.unit == "epochs":
            return float(sum(record.epoch > 0 for record in trained))
        if self.unit == "clip-frames":
            return float(sum(record.clip_frames for record in trained))
        return sum(record.seconds + record.val_seconds for record in trained) / 3600


@dataclass
class Spending:
    """How much of a budget is left, epochs under way included; without a budget everything is allowed.

    The next epoch of a state is taken to cost what its epochs cost so far: epochs and clip-frames exactly, hours by
    the seconds a clip-frame of this state was measured to take. A state that was never trained costs what its
    clip-frames say, and no hours.
    """

    budget: Budget | None
    _spent: float = 0.0
    _under_way: dict[str, float] = field(default_factory=dict)
    _hours: dict[str, tuple[float, int]] = field(default_factory=dict)

    def allows(self, state: str, clip_frames: int) -> bool:
        """Whether an epoch of `state` with so many clip-frames is within the budget."""
        if self.budget is None:
            return True
        left = self.budget.amount - self._spent - sum(self._under_way.values())
        return self._next(state, clip_frames) <= left * (1 + 1e-9) and left > 0

    def begin(self, edge: str, state: str, clip_frames: int) -> None:
        """An epoch of `edge` is under way."""
        self._under_way[edge] = self._next(state, clip_frames)

    def end(self, edge: str, state: str, record: Epoch) -> None:
        """It is finished, or was finished before this process began."""
        self._under_way.pop(edge, None)
        if self.budget is None:
            return
        self._spent += self.budget.cost([record])
        hours, frames = self._hours.get(state, (0.0, 0))
        taken = (record.seconds + record.val_seconds) / 3600
        self._hours[state] = hours + taken, frames + record.clip_frames

    def _next(self, state: str, clip_frames: int) -> float:
        if self.budget is None or self.budget.unit == "epochs":
            return 1.0
        if self.budget.unit == "clip-frames":
            return float(clip_frames)
        hours, frames = self._hours.get(state, (0.0, 0))
        return clip_frames * hours / frames if frames else 0.0
