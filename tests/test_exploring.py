"""The driver's side of an edge on curves that are given: what it keeps on the disk, whenever it is killed."""

import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.config import RunConfig
from fastplan.exploring import Explorer
from fastplan.planner.confidence import knee_band
from fastplan.planner.curve import Stop, choose_epoch, epochs_in_play, fit_knee, should_stop
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Leg
from fastplan.planner.states import START, State
from fastplan.rundir import RunDir
from fastplan.train.edge import EdgeTraining, EpochDone
from fastplan.train.evaluate import Evaluation
from fastplan.train.store import Store
from fastplan.train.trainer import EpochStats

STATE = State("a", ClipSpec(1, 8), 0.1)
EDGE = EdgeTraining("start>a", START, STATE, None)


class Silent:
    def __getattr__(self, name: str):
        return lambda *arguments: None


def opened(folder: Path, knee: str, **plan) -> tuple[Explorer, Store]:
    rundir, config = RunDir(folder), RunConfig.model_validate({"plan": {"knee": knee, **plan}})
    rundir.claim()
    store = Store(str(rundir.checkpoints_root))
    explorer = Explorer(rundir, rundir.open_journal(), store, config, Silent(), chance=0.1, videos=360, clips=64)
    rundir.close()
    return explorer, store


def answer(store: Store, request, curve: list[float]):
    """As a worker does it: the checkpoints are on the disk before the answer is told."""
    epoch = request.epoch
    if request.what == "score":
        assert epoch in weights_on(store)
        return Evaluation(curve[epoch], curve[epoch], 1.0, 1.0, 360)
    record = EpochRecord(epoch, curve[epoch], math.nan, 512 * bool(epoch), 1.0, 0.0, 0.0, time.time())
    if epoch == 0:
        return EpochDone(record, None)
    store.save(store.weights_name(EDGE.key, epoch), {"network": torch.zeros(1)})
    store.save(store.optimizer_name(EDGE.key, epoch), {"optimizer": torch.zeros(1)})
    return EpochDone(record, EpochStats(1.0, 64, 512, 1.0, 0.0, 1.0))


def epochs_on(store: Store, suffix: str) -> set[int]:
    return {
        int(n[-4 - len(suffix) : -len(suffix)]) for n in store.names() if n[-4 - len(suffix) : -len(suffix)].isdigit()
    }


def weights_on(store: Store) -> set[int]:
    return epochs_on(store, ".pt")


@pytest.mark.parametrize("knee", ["tolerance", "paper"])
def test_an_edge_under_way_keeps_what_can_still_be_chosen_whenever_it_is_killed(tmp_path, knee):
    """Killed up to 30 times, before and after an epoch is saved; it ends with the epoch that a whole run keeps."""
    draws, rng = np.random.default_rng(2), random.Random(0)
    curve = list(0.85 - 0.75 * np.exp(-0.15 * np.arange(101)) + draws.normal(0, 0.015, 101))
    explorer, store = opened(tmp_path / "run", knee)
    exploring, request, kills, most = explorer.explore(EDGE, rival=lambda: None), None, 0, 0
    outcome = None
    while outcome is None:
        try:
            request = next(exploring) if request is None else exploring.send(answer(store, request, curve))
        except StopIteration as end:
            outcome = end.value
            break
        if request.what == "epoch" and request.epoch > 1:
            so_far = curve[: request.epoch]
            needed = epochs_in_play(so_far, rule=knee, from_scratch=True)
            assert weights_on(store) - {request.epoch} == needed
            assert epochs_on(store, ".optimizer.pt") - {request.epoch} == {request.epoch - 1}
            most = max(most, len(needed))
        if kills < 30 and rng.random() < 0.5:
            kills += 1
            if rng.random() < 0.5:
                answer(store, request, curve)  # saved, and not committed
            explorer.close()
            explorer, store = opened(tmp_path / "run", knee)
            exploring, request = explorer.explore(EDGE, rival=lambda: None), None
    explorer.close()
    trained = curve[: outcome.trained + 1]
    fit = fit_knee(trained, rule=knee, chance=0.1)
    assert kills > 10 and outcome.status == "knee"
    assert outcome.epochs == choose_epoch(trained, fit, rule=knee, from_scratch=True)
    assert store.names() == [outcome.checkpoint]
    assert most < outcome.trained or knee == "paper"


@pytest.mark.parametrize("known", [None, 0.8, 0.95])
def test_an_edge_ends_when_its_knee_is_known(tmp_path, known):
    """Where `should_stop` ends it with the bands that the setting asks for."""
    draws = np.random.default_rng(5)
    curve = list(0.85 - 0.75 * np.exp(-0.3 * np.arange(101)) + draws.normal(0, 0.01, 101))
    for wanted in range(len(curve)):
        seen = curve[: wanted + 1]
        fit, noise = fit_knee(seen, rule="exponential", chance=0.1), math.sqrt(seen[-1] * (1 - seen[-1]) / 360)
        band = None
        if known:
            band = knee_band(seen, fit, rule="exponential", noise=noise, level=known)
        if should_stop(seen, fit, attempt_epochs=5, max_epochs=100, band=band) is Stop.KNEE:
            break
    explorer, store = opened(tmp_path / "run", "exponential", attempt_epochs=5, known_knee=known)
    exploring, request = explorer.explore(EDGE, rival=lambda: None), None
    with pytest.raises(StopIteration) as end:
        while True:
            request = next(exploring) if request is None else exploring.send(answer(store, request, curve))
    explorer.close()
    assert (end.value.value.status, end.value.value.trained) == ("knee", wanted)
    assert end.value.value.curve == tuple(curve[: wanted + 1])


def test_a_leg_of_a_plan_keeps_its_last_epoch_only(tmp_path):
    explorer, store = opened(tmp_path / "run", "tolerance")
    curve = list(np.linspace(0.1, 0.9, 9))
    leg = Leg(STATE, 8, schedule="cosine")
    exploring, request = explorer.train_leg(EDGE, leg), None
    with pytest.raises(StopIteration) as end:
        while True:
            request = next(exploring) if request is None else exploring.send(answer(store, request, curve))
            if request.what == "epoch" and request.epoch > 1:
                assert weights_on(store) == {request.epoch - 1}
    explorer.close()
    assert end.value.value.epochs == 8
    assert store.names() == [end.value.value.checkpoint]
