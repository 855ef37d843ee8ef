"""The run folder: the only module that knows which file is where.

config.yaml (resolved), pretrained.json, state_graph.yaml or replay.yaml, journal.sqlite, checkpoints/, network.pt,
plan.yaml, frontier.yaml, results.json, report.html, log.jsonl, lost.jsonl, crashes/, environment.json, tensorboard/.
Files that matter are written to a temporary name, flushed and renamed.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import yaml

from fastplan.config import RunConfig, build_config, read_settings
from fastplan.data.lost import LostClip
from fastplan.errors import UserError
from fastplan.planner.graph_files import graph_to_dict, load_graph
from fastplan.planner.journal import Journal
from fastplan.planner.plans import Plan, frontier_to_yaml
from fastplan.planner.states import StateGraph


class RunDir:
    """One run's folder, made by `claim`: a mistake found before leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    def claim(self) -> None:
        """Make the folder and keep other processes out. Raises `UserError` where that fails; again changes nothing."""
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot use the run folder {self.path}: {error.strerror}; give another --run") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is working in {self.path}; wait for it or give another --run") from None
        except OSError as error:
            raise UserError(
                f"the disk of {self.path} locks no files ({error.strerror}), and a run wants its folder to itself: "
                "give a --run on another disk, or mount this one with locks (Lustre: -o flock)"
            ) from None
        self._lock = lock

    def check_place(self) -> None:
        """Raise `UserError` where `claim` must fail, before hours of looking at videos; nothing is written."""
        above = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if os.path.exists(path))
        if not above.is_dir():
            raise UserError(f"cannot use the run folder {self.path}: {above} is a file; give another --run")
        if not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"cannot use the run folder {self.path}: {above} may not be written; give another --run")

    @staticmethod
    def has_run(path: Path) -> bool:
        """Whether a run was begun in this folder."""
        return (path / "config.yaml").exists()

    def close(self) -> None:
        """Let other processes use the folder."""
        if self._lock is not None:
            self._lock.close()

    @property
    def network_file(self) -> Path:
        """The trained network: averaged weights, classes and name."""
        return self.path / "network.pt"

    @property
    def plan_file(self) -> Path:
        """The plan found, or as replayed."""
        return self.path / "plan.yaml"

    @property
    def report_file(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def tensorboard_dir(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def crashes_dir(self) -> Path:
        """What `fastplan.data.crashes` keeps."""
        return self.path / "crashes"

    def open_journal(self) -> Journal:
        """The journal of this run."""
        return Journal(self.path / "journal.sqlite")

    @property
    def checkpoints_root(self) -> Path:
        """Where `fastplan.train.store` keeps checkpoints."""
        return self.path / "checkpoints"

    def save_config(self, config: RunConfig) -> None:
        """Save the resolved configuration; from then on the folder belongs to it."""
        self._write("config.yaml", config.to_yaml())

    def load_config(self) -> RunConfig:
        """The resolved configuration of this run."""
        file = self.path / "config.yaml"
        return build_config([(str(file), read_settings(file))])

    def save_pretrained(self, facts: Mapping[str, Any]) -> None:
        """Save what the initial weights were taken from, `sha256` of the file among it."""
        self._write("pretrained.json", json.dumps(facts, indent=2) + "\n")

    def pretrained_sha256(self) -> str | None:
        """The file that the initial weights were taken from, None where the run had none or is not begun."""
        file = self.path / "pretrained.json"
        return str(json.loads(file.read_text(encoding="utf-8"))["sha256"]) if file.exists() else None

    def save_graph(self, graph: StateGraph) -> None:
        """Save the state graph as it was searched."""
        self._write("state_graph.yaml", yaml.safe_dump(graph_to_dict(graph), sort_keys=False, width=110))

    def load_graph(self) -> StateGraph:
        """The state graph of this run."""
        return load_graph(self.path / "state_graph.yaml")

    def save_replayed(self, plan: Plan) -> None:
        """Save the plan that this run replays."""
        self._write("replay.yaml", plan.to_yaml())

    def load_replayed(self) -> Plan:
        """The plan that this run replays."""
        return Plan.load(self.path / "replay.yaml")

    def save_plan(self, plan: Plan) -> None:
        """Save the plan that came out."""
        self._write("plan.yaml", plan.to_yaml())

    def save_frontier(self, plans: Sequence[Plan]) -> None:
        """Save the best plans for every budget, cheapest first."""
        self._write("frontier.yaml", frontier_to_yaml(plans))

    def save_results(self, results: Mapping[str, Any]) -> None:
        """Save the figures of the run."""
        self._write("results.json", json.dumps(results, indent=2) + "\n")

    def save_environment(self, environment: Mapping[str, Any]) -> None:
        """Save versions and hardware."""
        self._write("environment.json", json.dumps(environment, indent=2) + "\n")

    def load_environment(self) -> dict[str, Any]:
        """What `save_environment` has saved; empty where the file is gone."""
        file = self.path / "environment.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def save_report(self, page: str) -> None:
        """Save the report page."""
        self._write("report.html", page)

    def append_lost(self, clip: LostClip) -> None:
        """Note a clip that could not be read, at once: a resumed run loses it again."""
        self._append("lost.jsonl", asdict(clip))

    def load_lost(self) -> list[LostClip]:
        """The clips that this run has lost so far."""
        file = self.path / "lost.jsonl"
        if not file.exists():
            return []
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # the last line was torn by a kill: what it says will be met again
            file.write_bytes(whole)
        return [LostClip(**json.loads(line)) for line in whole.splitlines()]

    def log(self, event: str, **fields: Any) -> None:
        """Append one line of JSON to the log."""
        self._append("log.jsonl", {"time": round(time.time(), 3), "event": event, **fields})

    def _append(self, name: str, fields: Mapping[str, Any]) -> None:
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path / name}: {error.strerror}") from None

    def _write(self, name: str, text: str) -> None:
        partial = self.path / f"{name}.partial"
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"cannot write {self.path / name}: {error.strerror}; earlier files are intact") from None
