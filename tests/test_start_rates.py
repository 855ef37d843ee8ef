"""A graph that may start at several learning rates: ways are compared at equal compute, after their plateaus.

The driver's side of whole searches, on curves that are given: a rate that is too high, the right one behind a plateau,
and one so low that it has not left its plateau when the others are done.
"""

import math

import numpy as np
import pytest
import torch

from fastplan.config import RunConfig
from fastplan.exploring import Explorer
from fastplan.planner.graph_files import graph_from_dict
from fastplan.planner.journal import EpochRecord
from fastplan.planner.states import START
from fastplan.planner.stepwise import Stepwise
from fastplan.rundir import RunDir
from fastplan.train.edge import EdgeTraining, EpochDone
from fastplan.train.evaluate import Evaluation
from fastplan.train.store import Store
from fastplan.train.trainer import EpochStats

CHANCE = 0.1
HIGH, RIGHT, LOW = "u-lr1", "u-lr0.25", "u-lr0.0625"
GRAPH = graph_from_dict(
    {
        "levels": {
            "starts": "every-lr",
            "clips": {"u": {"segments": 1, "frames": 8, "lr": 0.4}},
            "lr_scales": [1, 0.25, 0.0625],
        }
    }
)
X = np.arange(200)


def from_scratch(top: float, left_at: float) -> np.ndarray:
    return CHANCE + (top - CHANCE) / (1 + np.exp(-0.45 * (X - left_at)))


def onwards(begin: float, top: float) -> np.ndarray:
    return top - (top - begin) * np.exp(-0.4 * X)


def true_curve(key: str, before: float) -> np.ndarray:
    """The high rate ends in a basin that the right one does not leave; a fall of the rate is worth three points."""
    return {
        f"start>{HIGH}": from_scratch(0.5, 8),
        f"start>{RIGHT}": from_scratch(0.95, 13),
        f"start>{LOW}": from_scratch(0.85, 60),
        f"start>{HIGH}>{RIGHT}": onwards(before, 0.8),
    }.get(key, onwards(before, before + 0.03))


class Silent:
    def __getattr__(self, name: str):
        return lambda *arguments: None


def search(folder, *, max_epochs: int, compare_at_equal_compute: bool = True):
    """A whole search as a run drives it, serial; returns its result, and the epochs trained of every edge."""
    rundir, config = RunDir(folder), RunConfig.model_validate({"plan": {"max_epochs": max_epochs}})
    rundir.claim()
    store, journal = Store(str(rundir.checkpoints_root)), rundir.open_journal()
    explorer = Explorer(rundir, journal, store, config, Silent(), chance=CHANCE, videos=360, clips=64)
    stepwise, caps, reached, trained = Stepwise(GRAPH), GRAPH.caps(max_epochs), {}, {}
    while ready := stepwise.ask():
        way = ready[0]
        edge = EdgeTraining(way.key, way.source, way.state, way.arrival.outcome.checkpoint if way.arrival else None)
        curve = true_curve(way.key, reached[way.arrival.names] if way.arrival else CHANCE)
        longest = caps[way.source, way.state.name] if compare_at_equal_compute else None
        exploring, told = explorer.explore(edge, rival=lambda: None, longest=longest), None
        try:
            while True:
                request = next(exploring) if told is None else exploring.send(told)
                accuracy = float(curve[request.epoch])
                record = EpochRecord(request.epoch, accuracy, math.nan, 512 * bool(request.epoch), 1.0, 0.0, 0.0, 0.0)
                stats = EpochStats(1.0, 64, 512, 1.0, 0.0, 1.0) if request.epoch else None
                told = Evaluation(accuracy, accuracy, 1.0, 1.0, 360) if request.what == "score" else None
                if told is None:
                    told = EpochDone(record, stats)
                    store.save(store.weights_name(edge.key, request.epoch), {"network": torch.zeros(1)})
        except StopIteration as end:
            outcome = end.value
        reached[way.names], trained[way.key] = float(curve[outcome.epochs]), outcome.trained
        stepwise.tell(way, outcome)
    explorer.close()
    rundir.close()
    result = stepwise.result()
    return result, trained, reached[result.path.names]


def test_the_right_start_is_found_where_the_cap_falls_into_its_plateau(tmp_path):
    """With one cap for all, the way over the high rate has trained twice as long when they are compared, and wins."""
    cap = 12
    result, trained, accuracy = search(tmp_path / "equal", max_epochs=cap)
    assert result.path.names[0] == RIGHT and accuracy > 0.95
    assert cap < trained[f"start>{RIGHT}"] <= 2 * cap, "it has left its plateau, so it goes on"
    assert trained[f"start>{LOW}"] == cap, "it is at chance, so it is not waited for"
    _, _, unequal = search(tmp_path / "unequal", max_epochs=cap, compare_at_equal_compute=False)
    assert unequal < 0.85


def test_a_generous_cap_changes_nothing(tmp_path):
    result, trained, accuracy = search(tmp_path / "run", max_epochs=50)
    assert result.path.names[0] == RIGHT and accuracy > 0.95
    assert all(epochs < 50 for key, epochs in trained.items() if key != f"start>{LOW}")


@pytest.mark.parametrize("source, factor", [(START, 3), (RIGHT, 1)])
def test_caps_count_the_states_of_the_longest_path(source, factor):
    assert GRAPH.caps(10)[source, LOW] == factor * 10
    assert list(GRAPH.depths().items()) == [(START, 0), (HIGH, 1), (RIGHT, 2), (LOW, 3)]
