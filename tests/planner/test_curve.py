"""Knee fits on curves whose shape is known, and on the ones that have none."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastplan.planner.curve import KneeFit, Stop, choose_epoch, epochs_in_play, fit_knee, most_in_play, should_stop

CHANCE = 1 / 12


def saturating(epochs, *, limit=0.8, tau=5.0, start=0.1):
    x = np.arange(epochs + 1)
    return limit - (limit - start) * np.exp(-x / tau)


def first_within(curve, tolerance, limit):
    return int((np.asarray(curve) >= limit - tolerance).argmax())


@pytest.mark.parametrize("tau", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("tolerance", [0.005, 0.02])
def test_exact_curves_give_the_exact_knee(tau, tolerance):
    """A noiseless exponential is in the family: the knee is where it comes within the tolerance, to the grid of b."""
    curve = saturating(40, tau=tau)
    fit = fit_knee(curve, tolerance=tolerance)
    assert fit.status == "fitted"
    assert abs(fit.knee - first_within(curve, tolerance, 0.8)) <= 2
    assert fit.rmse < 0.005
    assert fit.accuracy == pytest.approx(0.8, abs=tolerance + 0.005)


def test_noisy_curves_land_within_stated_bounds():
    """200 noisy curves (tau 4, noise 0.8 points): the true accuracy at the knee is within 2 points of the limit for
    95 %, and no knee is later than 3 times the noiseless one."""
    rng = np.random.default_rng(0)
    truth = saturating(30, tau=4.0)
    noiseless = first_within(truth, 0.005, 0.8)
    regrets, knees = [], []
    for _ in range(200):
        fit = fit_knee(truth + rng.normal(0, 0.008, len(truth)))
        assert fit.status == "fitted"
        knees.append(fit.knee)
        regrets.append(0.8 - saturating(1000, tau=4.0)[min(fit.knee, 1000)])
    assert np.quantile(regrets, 0.95) < 0.02
    assert max(knees) <= 3 * noiseless


def test_a_peak_is_found_by_the_paper_rule():
    x = np.arange(31)
    curve = 0.7 - 0.5 * np.exp(-0.4 * x) - 0.0004 * x**2
    fit = fit_knee(curve, rule="paper")
    assert fit.status == "fitted"
    assert abs(fit.knee - int(curve.argmax())) <= 1
    assert fit.accuracy == pytest.approx(curve.max(), abs=0.01)


def run_edge(curve, *, attempt_epochs=5, max_epochs=40, **options):
    """Feed a curve epoch by epoch, as a trainer would; returns (why it ended, epochs trained, fit)."""
    for epoch in range(len(curve)):
        seen = curve[: epoch + 1]
        fit = fit_knee(seen, **options)
        stop = should_stop(seen, fit, attempt_epochs=attempt_epochs, max_epochs=max_epochs)
        if stop is not Stop.TRAIN:
            return stop, epoch, fit
    raise AssertionError("the edge never ended")


def test_a_flat_curve_keeps_the_parent():
    stop, epochs, fit = run_edge([0.5] * 41)
    assert (stop, epochs, fit.knee) == (Stop.KNEE, 5, 0)
    assert choose_epoch([0.5] * 6, fit, rule="tolerance", from_scratch=False) == 0


def test_a_falling_curve_keeps_the_parent():
    curve = [0.8 - 0.01 * epoch for epoch in range(41)]
    stop, epochs, fit = run_edge(curve)
    assert (stop, epochs, fit.knee) == (Stop.KNEE, 5, 0)
    assert choose_epoch(curve[:6], fit, rule="tolerance", from_scratch=False) == 0


def test_nan_ends_the_edge_as_diverged():
    stop, epochs, fit = run_edge([0.1, 0.2, float("nan"), 0.2])
    assert (stop, epochs, fit.status, fit.knee) == (Stop.DIVERGED, 2, "nonfinite", None)
    assert "epoch 2" in fit.explanation


def test_a_curve_that_never_bends_ends_at_the_cap():
    curve = [0.01 * epoch for epoch in range(41)]
    stop, epochs, fit = run_edge(curve, max_epochs=30)
    assert (stop, epochs) == (Stop.CAP, 30)
    assert choose_epoch(curve[:31], fit, rule="tolerance", from_scratch=True) == 30


def test_a_start_that_stays_at_chance_ends_at_the_cap():
    rng = np.random.default_rng(1)
    curve = (CHANCE + rng.normal(0, 0.01, 41)).tolist()
    stop, epochs, fit = run_edge(curve, chance=CHANCE)
    assert (stop, epochs, fit.status) == (Stop.CAP, 40, "at_chance")


def test_the_flat_start_is_left_out_of_the_fit():
    """A plateau of 15 epochs at chance, then a rise: no stop on the plateau, and the knee is that of the rise."""
    rise = saturating(40, limit=0.95, tau=3.0, start=CHANCE)
    curve = np.concatenate([np.full(15, CHANCE), rise])
    stop, epochs, fit = run_edge(curve.tolist(), chance=CHANCE, max_epochs=54)
    assert stop is Stop.KNEE
    assert 12 <= fit.first <= 16
    assert abs(fit.knee - 15 - first_within(rise, 0.005, 0.95)) <= 4
    assert epochs >= 20


def test_a_failed_fit_is_one_more_epoch_not_an_error():
    fit = fit_knee([0.1, 0.2], rule="paper")
    assert (fit.knee, fit.status) == (None, "short")
    assert should_stop([0.1, 0.2], fit, attempt_epochs=1, max_epochs=9) is Stop.TRAIN


def test_the_peak_of_the_fit_is_kept_and_not_a_lucky_validation():
    rising = [0.1, 0.5, 0.70, 0.76, 0.79, 0.80, 0.795, 0.81, 0.80, 0.80, 0.80, 0.82, 0.815]
    fit = fit_knee(rising, tolerance=0.01)
    kept = choose_epoch(rising, fit, rule="tolerance", from_scratch=True)
    assert kept == fit.predict(range(13)).argmax() != 11
    assert kept > fit.knee, "epochs behind the knee are trained too"
    assert choose_epoch(rising, fit, rule="paper", from_scratch=True) == fit.knee
    x = np.arange(31)
    hump = 0.8 - 0.6 * np.exp(-0.5 * x) - 0.0004 * x**2
    hump[18] += 0.05
    peak = int(hump[:18].argmax())
    kept = choose_epoch(hump.tolist(), fit_knee(hump), rule="tolerance", from_scratch=False)
    assert abs(kept - peak) <= 4 and kept != 18, "to the next multiple of four"


def test_the_fitted_peak_loses_less_than_the_best_validation_near_the_knee():
    """60 noisy saturating curves, ended by the default rule: the true accuracy that is given up, in points."""
    rng, kept, near = np.random.default_rng(0), [], []
    for _ in range(60):
        truth = saturating(60, tau=rng.uniform(2, 12))
        curve = (truth + rng.normal(0, 0.02, 61)).tolist()
        _, epochs, fit = run_edge(curve, max_epochs=60)
        kept.append(0.8 - truth[choose_epoch(curve[: epochs + 1], fit, rule="tolerance", from_scratch=False)])
        near.append(
            0.8 - truth[max(range(max(fit.knee - 3, 0), min(fit.knee + 3, epochs) + 1), key=lambda e: curve[e])]
        )
    assert np.mean(kept) < 0.7 * np.mean(near), (np.mean(kept), np.mean(near))


def test_random_weights_are_never_kept():
    fit = fit_knee([0.5] * 8)
    assert choose_epoch([0.5] * 8, fit, rule="tolerance", from_scratch=True) == 1
    assert choose_epoch([0.5] * 8, fit, rule="paper", from_scratch=True) == 1


@settings(max_examples=150, deadline=None)
@given(
    curve=st.lists(st.sampled_from([0.2, 0.3, 0.4, 0.41, 0.5]), min_size=1, max_size=14),
    rule=st.sampled_from(["tolerance", "power", "paper"]),
    from_scratch=st.booleans(),
)
def test_only_epochs_that_no_end_of_the_curve_can_choose_are_ruled_out(curve, rule, from_scratch):
    """Against every peak, or no fit, of continuations that are flat, better or worse than what came before."""
    in_play = epochs_in_play(curve, rule=rule, from_scratch=from_scratch)
    chosen = set()
    for later, more in itertools.product((0.0, 0.45, 0.9), range(8)):
        whole = curve + [later] * more
        for knee in (None, *range(len(whole) + 12)):
            peaked = (0.0, 1.0, -2.0 * (knee or 0), 1.0, 0.5)  # 0.5 + knee^2 - (x - knee)^2
            fit = KneeFit(knee, 0.5, 0, peaked, 0.0, "short" if knee is None else "fitted", "")
            chosen.add(choose_epoch(whole, fit, rule=rule, from_scratch=from_scratch))
    last = len(curve) - 1
    assert {epoch for epoch in chosen if epoch <= last} == in_play
    if last:
        before = epochs_in_play(curve[:-1], rule=rule, from_scratch=from_scratch)
        assert in_play - {last} <= before, "what was ruled out once may be deleted"


@pytest.mark.parametrize("epochs", [1, 3, 8, 9, 13, 40, 60, 100])
@pytest.mark.parametrize("rule", ["tolerance", "paper"])
def test_the_disk_that_an_edge_needs_is_known_beforehand(rule, epochs):
    """The new epoch is on the disk before those that it rules out are deleted; epoch 0 has no file of its own."""
    rng, most = np.random.default_rng(0), 0
    for curve in (rng.random(epochs + 1).tolist(), list(range(epochs + 1)), [0.5, 0.9, *[0.5] * (epochs - 1)]):
        for last in range(epochs):
            most = max(most, len(epochs_in_play(curve[: last + 1], rule=rule, from_scratch=False) - {0}) + 1)
    assert most <= most_in_play(epochs, rule=rule) <= min(most + 2, epochs)
