"""What a stage is made of, and the journal that its results go to."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Record = dict[str, Any]

FINISHED = ("done", "failed")
UNIT_FAILED = 3  # exit status of a process that a unit has ended


class Unit(NamedTuple):
    """One piece of a stage that can be measured, skipped or lost by itself.

    kind: units of one kind take about the same time. expected_s: how long, before any of its kind has run. run: does
    the work and returns rows for the journal.
    """

    name: str
    kind: str
    expected_s: float
    run: Callable[[], Iterable[Row]]
    missing: str = ""


class Journal:
    """One JSON object a line: `planned` names all units; then, per unit, `begun`, the same again with the rows so far,
    and `done`, `failed` or `skipped`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **record: Any) -> None:
        """Append; it is on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[Record]:
        """All that was written, without a last line that a kill cut short."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines if line]

    def latest(self) -> dict[str, Record]:
        """The last record of every unit that was begun or skipped."""
        return {record["unit"]: record for record in self.records() if "unit" in record}


def stage_records(folder: Path, stage: str) -> list[Record]:
    """How every unit of a stage stands, over the journals of all its processes, in the order planned.

    A unit that no process has reached is `skipped`.
    """
    latest: dict[str, Record] = {}
    planned: list[str] = []
    for path in sorted(folder.glob(f"{stage}-*.jsonl")):
        journal = Journal(path)
        planned = next((record["planned"] for record in reversed(journal.records()) if "planned" in record), planned)
        for name, record in journal.latest().items():
            if name not in latest or latest[name]["status"] not in FINISHED:
                latest[name] = record
    unreached = {"status": "skipped", "reason": "the stage's time was up"}
    return [latest.get(name, {"unit": name, **unreached}) for name in planned]
