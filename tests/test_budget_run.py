"""A search that a budget cut short and a larger one goes on with: what is on the disk, with curves that are given."""

import math
import time
from pathlib import Path

import pytest
import torch

import fastplan.runner
from fastplan.launch import Request, resolve
from fastplan.planner.journal import EpochRecord
from fastplan.rundir import RunDir
from fastplan.runner import Runner
from fastplan.train.edge import EpochDone
from fastplan.train.evaluate import Evaluation
from fastplan.train.store import Store
from fastplan.train.trainer import EpochStats
from fastplan.workers import Answered

GRAPH = """
states:
  a: {segments: 1, frames: 8, size: 24, lr: 0.05, batch_size: 16}
  b: {segments: 1, frames: 8, size: 24, lr: 0.04, batch_size: 16}
  m: {segments: 8, frames: 4, size: 24, lr: 0.05, batch_size: 16}
  z: {segments: 1, frames: 4, size: 24, lr: 0.05, batch_size: 16}
edges: [start -> a, start -> b, a -> m, b -> m, m -> z]
config: {data: {embedded: tiny}, network: {name: dg_p3d_tiny}}
"""
RISING = [0.2, 0.3, 0.4, 0.5]


class GivenCurves:
    """A worker that looks accuracies up and saves checkpoints that hold nothing."""

    names = ("",)

    def __init__(self, store, curves: dict[str, list[float]], clips: int) -> None:
        self._store, self._curves, self._clips = store, curves, clips

    def submit(self, slot, request) -> None:
        self._request = request

    def wait(self) -> Answered:
        edge, epoch = self._request.edge, self._request.epoch
        store, accuracy = self._store, self._curves.get(edge.key, RISING)[epoch]
        begins_with = store.weights_name(edge.key, epoch) if epoch else edge.parent
        if self._request.what == "score" or epoch == 0:
            assert begins_with is None or store.load(begins_with, torch.device("cpu"))
        if self._request.what == "score":
            return Answered(0, Evaluation(accuracy, accuracy, 1.0, 1.0, 360))
        if epoch == 0:
            return Answered(0, EpochDone(EpochRecord(0, accuracy, math.nan, 0, 0.0, 0.0), None))
        for name in (store.weights_name(edge.key, epoch), store.optimizer_name(edge.key, epoch)):
            store.save(name, {"network": {"of": torch.zeros(1)}, "average": {"of": torch.zeros(1)}})
        frames = edge.state.clip_frames(self._clips)
        record = EpochRecord(epoch, accuracy, 1.0, frames, 1.0, 0.0, 0.0, time.time())
        return Answered(0, EpochDone(record, EpochStats(1.0, self._clips, frames, 1.0, 0.0, 1.0)))

    def close(self) -> None:
        pass


class Silent:
    def __getattr__(self, name: str):
        return lambda *arguments: lambda: None


def searched(folder: Path, curves: dict[str, list[float]], monkeypatch, *, budget: str | None = None):
    """The result, and the checkpoints that are left."""
    (folder.parent / "g.yaml").write_text(GRAPH)
    words = ("plan.max_epochs=3", "plan.race=null")
    task = resolve(Request(state_graph=str(folder.parent / "g.yaml"), device="cpu", budget=budget, overrides=words))
    rundir = RunDir(folder)
    with Runner(rundir, task.config, states=task.states, target=task.target, watcher=Silent()) as runner:
        store = Store(str(rundir.checkpoints_root))
        worker = GivenCurves(store, curves, len(runner.splits.train))
        monkeypatch.setattr(fastplan.runner, "open_workers", lambda *_, **__: worker)
        result = runner.search(task.graph)
        rundir.close()
        return result, store.names()


@pytest.mark.parametrize("then", [RISING, [0.2, 0.3, 0.5, 0.7], [0.2, 0.3, math.nan]])
def test_a_larger_budget_finds_what_it_needs_and_leaves_nothing_behind(tmp_path, monkeypatch, then):
    """The edge b -> m is cut while it is worse than a -> m; with more it is equal to it, better, or diverges."""
    curves = {"start>b>m": then, "start>b>m>z": [0.2, 0.1, 0.1, 0.1]}
    whole, left = searched(tmp_path / "whole", curves, monkeypatch)
    cut = f"{(3 + 3) * 96 * 8 + (3 + 1) * 96 * 32 + 2 * 96 * 4}f"  # epochs of 96 clips in a and b, in m, in z
    first, names = searched(tmp_path / "run", curves, monkeypatch, budget=cut)
    assert first.path.names == ("a", "m", "z") and first.path.outcome.status == "budget"
    folders = {name.rpartition("/")[0] for name in names}
    assert folders == {"start/a", "start/a/m", "start/a/m/z", "start/b", "start/b/m"}
    again, names = searched(tmp_path / "run", curves, monkeypatch)
    assert again.plan.legs == whole.plan.legs and again.path.names == whole.path.names
    assert names == left == [again.path.outcome.checkpoint]
