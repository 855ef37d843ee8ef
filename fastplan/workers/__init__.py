"""Who trains: this process (`serial`), it and others in lock-step (`ranks`), processes of this machine (`processes`),
or a Ray cluster (`on_ray`).

Each answers requests of `fastplan.train.edge` in numbered slots, one at a time in each, and decides nothing.
"""

from dataclasses import dataclass
from typing import Protocol

from fastplan.data.lost import LostClip
from fastplan.train.edge import Answer, Request

MOST_LOSSES = 3  # workers that may die over one request before the run gives up


@dataclass(frozen=True)
class Answered:
    """A request is done."""

    slot: int
    answer: Answer


@dataclass(frozen=True)
class Stepped:
    """An optimizer step of the running epoch is done."""

    slot: int
    step: int
    steps: int


@dataclass(frozen=True)
class Lost:
    """The worker died, `why` says how; another one has taken its slot and knows nothing of the request."""

    slot: int
    why: str


@dataclass(frozen=True)
class Unread:
    """A clip could not be read, and was replaced or left out."""

    slot: int
    clip: LostClip


Event = Answered | Stepped | Lost | Unread


class Workers(Protocol):
    """A worker in every slot; whoever opened them closes them."""

    @property
    def names(self) -> list[str]:
        """What each slot is called in the journal; there are as many as names."""

    def submit(self, slot: int, request: Request) -> None:
        """Give a free slot something to do."""

    def wait(self) -> Event:
        """The next thing that happens. Raises `UserError` where a worker met one, `RuntimeError` for a defect."""

    def close(self) -> None:
        """End all workers, whatever they are doing."""
