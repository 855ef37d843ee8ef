"""The run's memory: every finished epoch, fit and edge, in one SQLite file.

A row is committed, and on disk, before the run goes on; what a killed run had committed is what a resumed one
starts from. Times are kept beside results but play no part in any decision.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from fastplan.errors import UserError
from fastplan.planner.arrivals import Outcome
from fastplan.planner.curve import KneeFit

_SCHEMA = """
create table if not exists epochs (
    source text not null, target text not null, epoch integer not null,
    accuracy real, loss real, clip_frames integer not null, seconds real not null, data_seconds real not null,
    primary key (source, target, epoch));
create table if not exists fits (
    source text not null, target text not null, epoch integer not null, fit text not null,
    primary key (source, target, epoch));
create table if not exists edges (
    source text not null, target text not null, outcome text not null,
    primary key (source, target));
"""


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch of one edge; epoch 0 is the evaluation before training.

    accuracy: validation top-1, a fraction. loss: mean training loss (nan at epoch 0). clip_frames: frames trained on.
    seconds: wall time of training. data_seconds: the part of it spent waiting for clips.
    """

    epoch: int
    accuracy: float
    loss: float
    clip_frames: int
    seconds: float
    data_seconds: float


class Journal:
    """SQLite file of epochs, fits and outcomes. Raises `UserError` where the file is damaged or cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path)
        self._execute("pragma synchronous = full")
        try:
            with self._db:
                self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def record_epoch(self, source: str, target: str, record: EpochRecord) -> None:
        """Commit one finished epoch."""
        self._execute(
            "insert or replace into epochs values (?, ?, ?, ?, ?, ?, ?, ?)",
            (source, target, record.epoch, record.accuracy, record.loss)
            + (record.clip_frames, record.seconds, record.data_seconds),
        )

    def record_fit(self, source: str, target: str, epoch: int, fit: KneeFit) -> None:
        """Commit what the curve said after `epoch`."""
        self._execute(
            "insert or replace into fits values (?, ?, ?, ?)",
            (source, target, epoch, json.dumps(asdict(fit))),
        )

    def record_edge(self, outcome: Outcome) -> None:
        """Commit the outcome of an explored edge."""
        self._execute(
            "insert or replace into edges values (?, ?, ?)",
            (outcome.source, outcome.target, json.dumps(asdict(outcome))),
        )

    def epochs(self, source: str, target: str) -> list[EpochRecord]:
        """Finished epochs of an edge, from epoch 0 on."""
        rows = self._execute(
            "select epoch, accuracy, loss, clip_frames, seconds, data_seconds from epochs "
            "where source = ? and target = ? order by epoch",
            (source, target),
        )
        nan = float("nan")  # SQLite stores nan as null
        return [EpochRecord(r[0], nan if r[1] is None else r[1], nan if r[2] is None else r[2], *r[3:]) for r in rows]

    def fits(self, source: str, target: str) -> dict[int, KneeFit]:
        """Fits of an edge by epoch."""
        rows = self._execute("select epoch, fit from fits where source = ? and target = ?", (source, target))
        found = {}
        for epoch, text in rows:
            fit = json.loads(text)
            found[epoch] = KneeFit(**{**fit, "params": tuple(fit["params"])})
        return found

    def outcome(self, source: str, target: str) -> Outcome | None:
        """The outcome of an edge, None where it is not finished."""
        rows = self._execute("select outcome from edges where source = ? and target = ?", (source, target))
        return Outcome(**json.loads(rows[0][0])) if rows else None

    def edges(self) -> list[tuple[str, str]]:
        """Every edge that has at least one finished epoch, in the order in which they were begun."""
        rows = self._execute("select source, target from epochs group by source, target order by min(rowid)")
        return [(source, target) for source, target in rows]

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._db:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: sqlite3.DatabaseError) -> UserError:
        if isinstance(error, sqlite3.OperationalError):
            return UserError(f"cannot use the journal {self._path}: {error}; what it already holds is kept")
        return UserError(f"the journal {self._path} is damaged ({error}); start a new run in another folder")
