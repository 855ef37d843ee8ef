"""The replay bench measures what it says: known optimum, paired noise, committed families; the documented example."""

import math
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_frontier import all_paths, walk
from test_stepwise import random_graph

from fastplan.benchmarks import replay_families, replay_knees, replay_search
from fastplan.planner import (
    START,
    Outcome,
    Reached,
    SearchRules,
    State,
    Stop,
    choose_epoch,
    knee_band,
    search,
    should_stop,
)

ROOT = Path(__file__).parents[2]


def test_the_committed_families_are_what_the_script_makes():
    assert replay_families.FILE.read_text(encoding="utf-8") == replay_families.families_text()


def test_no_path_of_a_world_beats_its_best_possible():
    for world in replay_families.worlds(3):
        best = world.best_possible()
        found = []
        for path in all_paths(world.graph):
            before = None
            for source, target in pairwise((START, *path)):
                curve = world.curve(source, target, before)
                before = float(curve[1:].max() if before is None else curve.max())
            found.append(before)
        assert best == pytest.approx(max(found))
        rng = np.random.default_rng(0)
        for path in rng.permutation(np.array(all_paths(world.graph), dtype=object))[:20]:
            before = None
            for source, target in pairwise((START, *path)):
                before = float(rng.choice(world.curve(source, target, before)[1:]))
            assert before <= best


@pytest.mark.parametrize("rule", [r for r in replay_knees.RULES if r.rule != "paper"], ids=lambda r: r.name)
def test_following_a_curve_ends_where_asking_after_every_epoch_ends(rule):
    for row in replay_families.curve_rows(5, seed=3):
        seen = row.draw()[1].tolist()
        for epoch in range(rule.attempt, len(seen)):
            part = seen[: epoch + 1]
            fit = replay_knees.fit_curve(part, rule.rule, row.from_scratch)
            band = None
            if rule.level is not None:
                noise = replay_knees.noise_of(part)
                band = knee_band(part, fit, rule=rule.rule, noise=noise, level=rule.level)
            stop = should_stop(part, fit, attempt_epochs=rule.attempt, max_epochs=len(seen) - 1, band=band)
            if stop is not Stop.TRAIN:
                break
        end = replay_knees.follow(seen, rule, from_scratch=row.from_scratch)
        assert (end.stop, end.trained) == (stop, epoch)
        assert end.kept == choose_epoch(part, fit, rule=rule.rule, from_scratch=row.from_scratch)


@pytest.mark.parametrize("lever", [replay_search.BASE, *replay_search.LEVERS[-2:]], ids=lambda lever: lever.name)
def test_a_search_in_a_world_stays_below_its_optimum_and_within_its_budget(lever):
    world = replay_families.worlds(1)[0]
    full = replay_search.replay(world, replay_search.BASE)
    found = replay_search.replay(world, lever, budget=full.cost // 3)
    dearest = replay_families.EPOCHS * max(world.prices.values())
    assert found.cost < full.cost // 3 + dearest
    assert found.accuracy <= world.best_possible() + 1e-12
    assert full.result.complete
    assert not found.result.complete
    assert replay_search.replay(world, lever, budget=full.cost // 3) == found


def test_an_edge_is_as_noisy_under_every_lever():
    """Levers are compared on the same draws: an edge from the same weights shows the same curve."""
    world = replay_families.worlds(2)[1]
    whole = replay_search.replay(world, replay_search.BASE)
    wide = replay_search.replay(world, next(lever for lever in replay_search.LEVERS if lever.name == "width 2"))
    shared = [name for name in whole.result.reached if len(whole.result.reached[name].path) == 1]
    assert shared
    for name in shared:
        assert wide.result.reached[name].path == whole.result.reached[name].path


def test_on_1000_graphs_skipping_dominated_sources_loses_nothing_where_gains_belong_to_states():
    saved = 0
    for seed in range(1000):
        graph = random_graph(random.Random(seed))

        def measure(source: str, state: State, before: Reached | None, seed=seed) -> Outcome:
            rng = random.Random(f"{seed} {state.name}")
            gain, cost = rng.randint(0, 63) / 1024, rng.randint(1, 30)
            accuracy = (before.outcome.accuracy if before else 0.0) + gain
            return Outcome(source, state.name, "knee", 1, 2, accuracy, 0.0, cost, 1.0, None)

        full, lean = search(graph, measure), search(graph, measure, rules=SearchRules(skip_dominated=True))
        best = max(walk(graph, names, measure).outcome.accuracy for names in all_paths(graph))
        assert lean.plan.accuracy == full.plan.accuracy == best
        assert lean.spent <= full.spent
        saved += bool(lean.skipped)
    assert saved > 100, "the lever was idle on nearly every graph"


def test_recorded_curves_are_read_and_ended_at_sensible_epochs(shared):
    recorded = shared / "design" / "task" / "curves"
    if not (recorded / "trial2.jsonl").exists():
        pytest.skip(f"no recorded curves in {recorded}")
    curves = replay_knees.read_recorded(recorded)
    assert len(curves) > 50
    rule = next(r for r in replay_knees.RULES if r.name == "tolerance, T = 3")
    for from_scratch, curve in curves:
        assert all(0 <= a <= 1 for a in curve)
        end = replay_knees.follow(curve, rule, from_scratch=from_scratch)
        assert 0 <= end.kept <= end.trained <= len(curve) - 1
        assert math.isfinite(end.fit.accuracy) == (end.fit.knee is not None)


def test_the_example_of_the_documentation_runs_and_plans():
    text = (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    names: dict = {}
    exec("\n".join(blocks), names)
    plan, graph = names["result"].plan, names["graph"]
    assert names["result"].complete
    assert plan.legs[-1].state.name in {state.name for state in graph.states}
    assert plan.accuracy > 0.8
    assert names["parallel"].plan == plan
    assert names["result"].frontier.plan_within(0) is None
