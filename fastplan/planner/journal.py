"""The run's memory: every finished epoch, fit and edge, in one SQLite file.

A row is committed, and on disk, before the run goes on; what a killed run had committed is what a resumed one
starts from. Times are kept beside results but play no part in any decision.
"""

import json
import sqlite3
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from fastplan.errors import UserError
from fastplan.planner.arrivals import Outcome
from fastplan.planner.curve import KneeFit

_FORMAT = 2
_SCHEMA = f"""
begin;
create table if not exists epochs (
    edge text not null, epoch integer not null,
    accuracy real, loss real, clip_frames integer not null, seconds real not null, data_seconds real not null,
    val_seconds real not null, finished real not null, worker text not null,
    primary key (edge, epoch));
create table if not exists fits (
    edge text not null, epoch integer not null, fit text not null,
    primary key (edge, epoch));
create table if not exists edges (
    edge text not null, outcome text not null,
    primary key (edge));
pragma user_version = {_FORMAT};
commit;
"""


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch of one edge; epoch 0 is the evaluation before training.

    accuracy: validation top-1, a fraction. loss: mean training loss (nan at epoch 0). clip_frames: frames trained on.
    seconds: wall time of training. data_seconds: the part of it spent waiting for clips. val_seconds: wall time of the
    validation. finished: when, in seconds since 1970. worker: who trained it, empty where there was one process.
    """

    epoch: int
    accuracy: float
    loss: float
    clip_frames: int
    seconds: float
    data_seconds: float
    val_seconds: float = 0.0
    finished: float = 0.0
    worker: str = ""


class Journal:
    """SQLite file of epochs, fits and outcomes. Raises `UserError` where the file is damaged or cannot be written.

    An edge is named by its key, the path that was trained up to it (`Exploration.key`, such as `start>c8>u16`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path)
        except sqlite3.OperationalError as error:
            raise self._damaged(error) from None
        self._execute("pragma synchronous = full")
        begun = self._execute("select count(*) from sqlite_master")[0][0]
        if begun and self._execute("pragma user_version")[0][0] != _FORMAT:
            raise UserError(f"the journal {path} is of another version of fastplan; start a new run in another folder")
        try:
            with self._db:
                self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def record_epoch(self, edge: str, record: EpochRecord) -> None:
        """Commit one finished epoch."""
        self._execute("insert or replace into epochs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (edge, *astuple(record)))

    def record_fit(self, edge: str, epoch: int, fit: KneeFit) -> None:
        """Commit what the curve said after `epoch`."""
        self._execute("insert or replace into fits values (?, ?, ?)", (edge, epoch, json.dumps(asdict(fit))))

    def record_edge(self, edge: str, outcome: Outcome) -> None:
        """Commit the outcome of an explored edge."""
        self._execute("insert or replace into edges values (?, ?)", (edge, json.dumps(asdict(outcome))))

    def epochs(self, edge: str) -> list[EpochRecord]:
        """Finished epochs of an edge, from epoch 0 on."""
        rows = self._execute(
            "select epoch, accuracy, loss, clip_frames, seconds, data_seconds, val_seconds, finished, worker "
            "from epochs where edge = ? order by epoch",
            (edge,),
        )
        nan = float("nan")  # SQLite stores nan as null
        return [EpochRecord(r[0], nan if r[1] is None else r[1], nan if r[2] is None else r[2], *r[3:]) for r in rows]

    def fits(self, edge: str) -> dict[int, KneeFit]:
        """Fits of an edge by epoch."""
        found = {}
        for epoch, text in self._execute("select epoch, fit from fits where edge = ?", (edge,)):
            fit = json.loads(text)
            found[epoch] = KneeFit(**{**fit, "params": tuple(fit["params"])})
        return found

    def outcome(self, edge: str) -> Outcome | None:
        """The outcome of an edge, None where it is not finished."""
        rows = self._execute("select outcome from edges where edge = ?", (edge,))
        if not rows:
            return None
        outcome = json.loads(rows[0][0])
        return Outcome(**{**outcome, "curve": tuple(outcome.get("curve", ()))})

    def edges(self) -> list[str]:
        """Every edge that has at least one finished epoch, in the order in which they were begun."""
        return [edge for (edge,) in self._execute("select edge from epochs group by edge order by min(rowid)")]

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._db:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: sqlite3.DatabaseError) -> UserError:
        if isinstance(error, sqlite3.OperationalError):
            return UserError(
                f"cannot use the journal {self._path}: {error}; what it holds is intact: see to disk space and "
                "permissions, then --resume"
            )
        return UserError(f"the journal {self._path} is damaged ({error}); start a new run in another folder")
