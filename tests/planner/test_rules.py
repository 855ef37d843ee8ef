"""Knee rules, their fits and their confidence against independent numerics."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit, nnls

from fastplan.planner import Outcome, Stop, choose_epoch, fit_knee, fit_knees, is_hopeless, knee_band, should_stop
from fastplan.planner.fitting import DECAYS, _fit_grid, fit_five, fit_projected, model


def noisy_curve(rng: np.random.Generator, n: int, sigma: float) -> np.ndarray:
    x = np.arange(n)
    return 0.9 - rng.uniform(0.1, 0.6) * np.exp(-rng.uniform(0.03, 0.5) * x) + rng.normal(0, sigma, n)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("family", ["concave", "free", "exponential", "power"])
def test_grid_fits_are_those_of_non_negative_least_squares(family, sigma):
    rng = np.random.default_rng(1)
    for n in (4, 7, 20, 61):
        y_BN = np.stack([noisy_curve(rng, n, sigma) - 0.002 * np.arange(n) for _ in range(6)])
        _, squares_GB = _fit_grid(family, y_BN)
        x = np.arange(n)
        for g, b in enumerate(DECAYS):
            columns = [-((1.0 + x) ** -b) if family == "power" else -np.exp(-b * x), np.ones(n)]
            columns += {"concave": [-x / n, -((x / n) ** 2)], "free": [-x / n, -((x / n) ** 2), x / n]}.get(family, [])
            for i, y in enumerate(y_BN):
                assert math.sqrt(squares_GB[g, i]) == pytest.approx(nnls(np.stack(columns, 1), y)[1], abs=1e-6)


@pytest.mark.parametrize("family", ["concave", "exponential", "power"])
def test_many_curves_at_once_are_each_curve_alone(family):
    rng = np.random.default_rng(2)
    y_BN = np.stack([noisy_curve(rng, 25, 0.02) for _ in range(10)])
    together, rmse_B = fit_projected(family, y_BN)
    for y, params, rmse in zip(y_BN, together, rmse_B, strict=True):
        alone, alone_rmse = fit_projected(family, y[None])
        np.testing.assert_allclose(params, alone[0], rtol=1e-9, atol=1e-12)
        fitted = model(np.arange(25.0), *params, power=family == "power")
        assert rmse == pytest.approx(float(np.sqrt(np.mean((fitted - y) ** 2))))
        assert rmse == pytest.approx(alone_rmse[0])


def test_the_published_fit_is_never_worse_than_one_without_jacobian_from_one_start():
    rng = np.random.default_rng(3)
    for _ in range(40):
        n = int(rng.integers(6, 60))
        y, x = noisy_curve(rng, n, 0.02), np.arange(n, dtype=float)
        params, rmse = fit_five(y)
        assert (params[[0, 1, 3, 4]] >= 0).all()
        assert rmse == pytest.approx(float(np.sqrt(np.mean((model(x, *params) - y) ** 2))))
        start, bounds = (np.ptp(y), 0.1, 0, 0, y.max()), ([0, 0, -np.inf, 0, 0], np.inf)
        try:
            other, _ = curve_fit(model, x, y, p0=start, bounds=bounds, maxfev=5000)
        except RuntimeError:
            continue
        assert rmse <= np.sqrt(np.mean((model(x, *other) - y) ** 2)) + 1e-6


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "e"),
    [(0.5, 0.21, 0.0, 4e-5, 0.9), (0.3, 0.08, 0.002, 0.0, 0.8), (0.4, 0.5, -0.001, 9e-5, 0.7)],
)
def test_the_published_fit_finds_the_knee_of_a_curve_without_noise(a, b, c, d, e):
    x = np.arange(40.0)
    fit = fit_knee(list(model(x, a, b, c, d, e)), rule="paper")
    assert fit.rmse < 1e-5
    assert fit.knee == int(model(np.arange(1001.0), a, b, c, d, e).argmax())


@pytest.mark.parametrize(("rule", "b"), [("exponential", 0.2), ("power", 0.9), ("tolerance", 0.2)])
def test_each_rule_finds_its_own_knee(rule, b):
    power = rule == "power"
    b = float(DECAYS[np.abs(DECAYS - b).argmin()])
    x = np.arange(30.0)
    fit = fit_knee(list(model(x, 0.5, b, 0.0, 0.0, 0.9, power=power)), rule=rule, tolerance=0.02)
    horizon = model(np.arange(120.0), 0.5, b, 0.0, 0.0, 0.9, power=power)
    assert fit.knee == int((horizon >= horizon.max() - 0.02).argmax())
    assert fit.power == power
    np.testing.assert_allclose(fit.predict(x), model(x, 0.5, b, 0.0, 0.0, 0.9, power=power), atol=1e-6)


@pytest.mark.parametrize("rule", ["tolerance", "power", "exponential"])
def test_every_rule_waits_for_a_start_from_scratch_and_leaves_the_flat_part_out(rule):
    flat = [0.1] * 8
    assert fit_knee(flat, rule=rule, chance=0.1).status == "at_chance"
    rise = list(0.9 - 0.8 * np.exp(-0.4 * np.arange(20)))
    fit = fit_knee(flat + rise, rule=rule, chance=0.1)
    assert fit.first >= 7
    assert fit.knee is not None
    assert fit.knee > fit.first


def test_the_band_covers_the_true_knee_and_narrows_with_epochs():
    """Coverage of the knee of the noiseless curve, at the level that the band was made for (80 %)."""
    truth = model(np.arange(400.0), 0.5, 0.1, 0.0, 0.0, 0.9)
    knee = int((truth >= truth.max() - 0.005).argmax())
    rng, covered, widths = np.random.default_rng(4), 0, {30: [], 80: []}
    for _ in range(100):
        y = truth[:81] + rng.normal(0, 0.02, 81)
        for n in widths:
            fit = fit_knee(list(y[: n + 1]), rule="exponential")
            band = knee_band(list(y[: n + 1]), fit, rule="exponential", level=0.8)
            widths[n].append(band.knee_high - band.knee_low)
            covered += n == 80 and band.knee_low <= knee <= band.knee_high
    assert 65 <= covered <= 95
    assert np.mean(widths[80]) < np.mean(widths[30])


def test_the_band_is_deterministic_and_grows_with_level_and_noise():
    y = list(noisy_curve(np.random.default_rng(5), 25, 0.02))
    fit = fit_knee(y)
    band = knee_band(y, fit, seed=3)
    assert band == knee_band(y, fit, seed=3)
    wide, loud = knee_band(y, fit, seed=3, level=0.98), knee_band(y, fit, seed=3, noise=0.1)
    assert wide.knee_low <= band.knee_low <= band.knee_high <= wide.knee_high
    assert wide.ceiling_high > band.ceiling_high
    assert loud.noise == 0.1
    assert loud.ceiling_high - loud.ceiling_low > band.ceiling_high - band.ceiling_low


@pytest.mark.parametrize("rule", ["tolerance", "paper", "power", "exponential"])
def test_the_band_of_a_perfect_fit_without_noise_is_a_point(rule):
    power = rule == "power"
    d = 1e-4 if rule == "paper" else 0.0
    y = list(model(np.arange(40.0), 0.5, float(DECAYS[12]), 0.0, d, 0.9, power=power))
    fit = fit_knee(y, rule=rule)
    band = knee_band(y, fit, rule=rule)
    assert band.knee_low - 1 <= fit.knee <= band.knee_high + 1
    assert band.knee_high - band.knee_low <= 1


def test_there_is_no_band_without_a_knee():
    assert knee_band([0.1] * 9, fit_knee([0.1] * 9, chance=0.1)) is None


@pytest.mark.parametrize(
    "wrong", [{"level": 1.0}, {"level": 0.0}, {"samples": 1}, {"noise": -0.1}, {"noise": math.nan}]
)
def test_a_band_out_of_range_is_refused(wrong):
    y = [0.1, 0.5, 0.7, 0.8, 0.8]
    with pytest.raises(ValueError, match="want"):
        knee_band(y, fit_knee(y), **wrong)


def test_a_saturated_curve_becomes_known_and_a_rising_one_does_not():
    rng = np.random.default_rng(6)
    x = np.arange(41)
    saturated = list(0.9 - 0.4 * np.exp(-0.5 * x) + rng.normal(0, 0.004, 41))
    rising = list(0.3 + 0.012 * x + rng.normal(0, 0.004, 41))
    for y, known in ((saturated, True), (rising, False)):
        fit = fit_knee(y)
        band = knee_band(y, fit, noise=0.004)
        assert should_stop(y, fit, attempt_epochs=5, max_epochs=50, band=band) is (Stop.KNEE if known else Stop.TRAIN)
    fit = fit_knee(saturated)
    band = knee_band(saturated, fit, noise=0.004)
    assert should_stop(saturated[:30], fit, attempt_epochs=30, max_epochs=50, band=band) is Stop.TRAIN
    assert should_stop(rising, fit_knee(rising), attempt_epochs=5, max_epochs=40, band=band) is Stop.CAP


def sibling(accuracy: float) -> Outcome:
    return Outcome("a", "z", "knee", 9, 14, accuracy, 0.02, 1, 1.0, None)


def test_only_an_edge_whose_upper_ceiling_is_below_its_sibling_is_hopeless():
    x = np.arange(16)
    y = list(0.5 - 0.3 * np.exp(-0.4 * x) + np.random.default_rng(7).normal(0, 0.005, 16))
    band = knee_band(y, fit_knee(y), max_epochs=30)
    assert is_hopeless(y, band, sibling(0.9), attempt_epochs=5)
    assert not is_hopeless(y, band, sibling(0.9), attempt_epochs=16)
    assert not is_hopeless(y, band, sibling(0.9), attempt_epochs=5, margin=0.4)
    assert not is_hopeless(y, band, sibling(band.ceiling_high + 0.01), attempt_epochs=5)
    assert not is_hopeless(y, band, None, attempt_epochs=5)
    assert not is_hopeless(y, None, sibling(0.9), attempt_epochs=5)
    rising = list(0.1 + 0.03 * x)
    assert not is_hopeless(rising, knee_band(rising, fit_knee(rising), max_epochs=30), sibling(0.8), attempt_epochs=5)


def test_the_paper_keeps_its_knee_and_the_others_the_peak_of_their_fit():
    y = list(0.9 - 0.5 * np.exp(-0.5 * np.arange(25)))
    y[11] += 0.01
    fit = fit_knee(y, rule="power", tolerance=0.05)
    assert choose_epoch(y, fit, rule="power", from_scratch=False) == 24, "a power law rises for ever"
    paper = fit_knee(y, rule="paper")
    assert choose_epoch(y, paper, rule="paper", from_scratch=False) == min(paper.knee, 24)


@pytest.mark.parametrize("rule", ["tolerance", "power", "exponential"])
def test_knees_of_many_curves_are_those_of_each_alone(rule):
    rng = np.random.default_rng(8)
    curves = [list(noisy_curve(rng, n, 0.02)) for n in (3, 9, 9, 30, 9)]
    curves += [[0.1] * 12, [0.1] * 5 + curves[1], [0.5, math.nan]]
    together = fit_knees(curves, rule=rule, chance=0.1)
    for curve, fit in zip(curves, together, strict=True):
        alone = fit_knee(curve, rule=rule, chance=0.1)
        assert (fit.status, fit.knee, fit.first) == (alone.status, alone.knee, alone.first)
        np.testing.assert_allclose(fit.params, alone.params, rtol=1e-7, atol=1e-12)
    assert {fit.status for fit in together} == {"short", "fitted", "at_chance", "nonfinite"}
