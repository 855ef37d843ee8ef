"""Performance-epoch curves and their knees.

A curve is a sequence of accuracies (fractions in 0..1), one per epoch; entry 0 is the evaluation before training.
The published model is f(x) = -a exp(-b x) - c x - d x^2 + e (METHOD section 1). A fit that cannot be made is a
value with an explanation, never an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastplan.planner.fitting import Family, fit_five, fit_projected, model

KneeRule = Literal["tolerance", "paper", "power", "exponential"]

PAPER_HORIZON = 1000  # the published rule takes the argmax over epochs 0..1000
HORIZON_FACTOR = 4  # the other rules look this many times as far as they have seen
LATEST = 8  # so many of the last epochs can be kept
EVERY = 4  # and of those before, the multiples of this
_FEWEST_POINTS = 4
_ROUNDING = 1e-9  # of a fitted accuracy
FAMILIES: dict[KneeRule, Family] = {
    "tolerance": "concave",
    "paper": "free",
    "power": "power",
    "exponential": "exponential",
}


class Stop(str, Enum):
    """Why an edge goes on or ends."""

    TRAIN = "train"
    KNEE = "knee"
    CAP = "cap"
    CEILING = "ceiling"
    PAUSE = "pause"
    BUDGET = "budget"
    PLANNED = "planned"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class KneeFit:
    """What a curve says about its own end.

    knee: the epoch x* at which training has paid, or None while the curve does not say.
    accuracy: the fitted accuracy at the knee, clipped to 0..1; nan without a knee.
    first: epochs before this one (a flat start from scratch) were left out of the fit.
    params: a, b, c, d, e with x counted in epochs from `first`; empty without a fit.
    power: whether the decaying term is a (1 + x)^-b instead of a exp(-b x).
    rmse: root mean square residual of the fit, in accuracy; nan without a fit.
    status: fitted, short, at_chance, nonfinite or failed.
    explanation: the status in words.
    """

    knee: int | None
    accuracy: float
    first: int
    params: tuple[float, ...]
    rmse: float
    status: Literal["fitted", "short", "at_chance", "nonfinite", "failed"]
    explanation: str
    power: bool = False

    def predict(self, epochs: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fitted accuracy at each of `epochs`; nan where there is no fit or before `first`."""
        x = np.asarray(epochs, np.float64) - self.first
        if not self.params:
            return np.full(x.shape, np.nan)
        return np.where(x >= 0, model(np.maximum(x, 0), *self.params, power=self.power), np.nan)


@dataclass(frozen=True)
class KneeBand:
    """Central band of what the curve's knee and ceiling may be.

    level: probability that the band is made to hold, 0..1.
    knee_low, knee_high: epochs. ceiling_low, ceiling_high: highest fitted accuracy up to the horizon, fractions
        (an extrapolation: it may exceed 1).
    noise: standard deviation of one validation that the draws assumed, in accuracy.
    """

    level: float
    knee_low: int
    knee_high: int
    ceiling_low: float
    ceiling_high: float
    noise: float


def fit_knee(
    accuracies: Sequence[float],
    *,
    rule: KneeRule = "tolerance",
    tolerance: float = 0.005,
    chance: float | None = None,
    scratch_margin: float = 0.15,
) -> KneeFit:
    """Fit the curve and find its knee.

    rule: `tolerance` fits with c >= 0 by variable projection (b on a logarithmic grid, non-negative least squares for
        the rest) and takes the first epoch within `tolerance` of the fitted maximum, over four times the epochs seen:
        from there on the expected gain is below `tolerance`. `exponential` and `power` do the same with
        -a exp(-b x) + e and -a (1 + x)^-b + e. `paper` fits all five by bounded least squares, c free, and takes the
        argmax over epochs 0..1000.
    tolerance: accuracy that may be given away at the knee, a fraction.
    chance: accuracy of guessing, for a curve that starts from random weights: there is no knee before the accuracy
        exceeds chance + `scratch_margin`, and the flat start is left out of the fit. None for any other curve. The
        `paper` rule has no such guard and ignores it.
    """
    return fit_knees([accuracies], rule=rule, tolerance=tolerance, chance=chance, scratch_margin=scratch_margin)[0]


def fit_knees(
    curves: Sequence[Sequence[float]],
    *,
    rule: KneeRule = "tolerance",
    tolerance: float = 0.005,
    chance: float | None = None,
    scratch_margin: float = 0.15,
) -> list[KneeFit]:
    """`fit_knee` of many curves, faster together: those of one length are fitted at once."""
    series = [np.asarray(curve, np.float64) for curve in curves]
    found: dict[int, KneeFit] = {}
    by_length: dict[int, list[tuple[int, int]]] = {}
    for i, y in enumerate(series):
        if not np.isfinite(y).all():
            explanation = f"accuracy is not a number at epoch {int((~np.isfinite(y)).argmax())}"
            found[i] = _no_knee("nonfinite", explanation)
        elif rule == "paper":
            found[i] = _fit_paper(y)
        elif chance is not None and (len(y) == 0 or y.max() < chance + scratch_margin):
            found[i] = _no_knee("at_chance", f"no accuracy above {chance + scratch_margin:.3f} yet")
        else:
            first = 0 if chance is None else _flat_start(y, chance + scratch_margin * 2 / 3)
            if len(y) - first < _FEWEST_POINTS:
                found[i] = _no_knee("short", f"too few epochs to fit ({len(y)} points)")
            else:
                by_length.setdefault(len(y) - first, []).append((i, first))
    for members in by_length.values():
        fits = _fit_within_tolerance(np.stack([series[i][first:] for i, first in members]), rule, tolerance)
        found |= {i: _shifted(fit, first) for (i, first), fit in zip(members, fits, strict=True)}
    return [found[i] for i in range(len(series))]


def should_stop(
    accuracies: Sequence[float], fit: KneeFit, *, attempt_epochs: int, max_epochs: int, band: KneeBand | None = None
) -> Stop:
    """Whether the edge ends now: at its knee, at `max_epochs`, or because it diverged.

    Without a band the edge ends `attempt_epochs` past its knee. With one it ends when the knee is known: at least
    `attempt_epochs` trained, and both the knee and the upper end of its band lie behind.
    """
    epochs = len(accuracies) - 1
    if fit.status == "nonfinite":
        return Stop.DIVERGED
    if fit.knee is not None and epochs >= attempt_epochs:
        end = fit.knee + attempt_epochs if band is None else max(fit.knee, band.knee_high)
        if epochs >= end:
            return Stop.KNEE
    return Stop.CAP if epochs >= max_epochs else Stop.TRAIN


def choose_epoch(accuracies: Sequence[float], fit: KneeFit, *, rule: KneeRule, from_scratch: bool) -> int:
    """The epoch whose checkpoint an ended edge keeps; 0 keeps the parent's weights.

    `paper` keeps the knee itself. The other rules keep, of the epochs in play, the one where the fitted curve is
    highest (the earliest of equals): all are trained, and the fit knows more than a single validation. Without a knee
    it is the best measured epoch. Initial weights (epoch 0 of an edge from the start) are never kept unless nothing was
    trained.
    """
    last = len(accuracies) - 1
    if rule == "paper" and fit.knee is not None:
        return min(max(fit.knee, min(1, last) if from_scratch else 0), last)
    candidates = sorted(epochs_in_play(accuracies, rule=rule, from_scratch=from_scratch))
    if fit.knee is None:
        return max(candidates, key=lambda epoch: (accuracies[epoch], -epoch))
    behind_start = [epoch for epoch in candidates if epoch >= fit.first]
    fitted = fit.predict(behind_start)
    return behind_start[int((fitted >= fitted.max() - _ROUNDING).argmax())]


def epochs_in_play(accuracies: Sequence[float], *, rule: KneeRule, from_scratch: bool) -> set[int]:
    """The epochs so far that `choose_epoch` can still name, whatever comes after them; the last one is among them.

    The peak of a later fit may be anywhere, but curves are flat around their peaks: the `LATEST` last epochs, every
    `EVERY`-th one before them, and the best measured one. `paper` keeps the knee itself, which may be any epoch. An
    epoch once ruled out stays so.
    """
    last = len(accuracies) - 1
    trained = range(min(1, last) if from_scratch else 0, last + 1)
    if rule == "paper":
        return set(trained)
    best = max(trained, key=lambda epoch: (accuracies[epoch], -epoch))
    return {best} | {epoch for epoch in trained if epoch > last - LATEST or epoch % EVERY == 0}


def most_in_play(epochs: int, *, rule: KneeRule) -> int:
    """How many trained epochs are in play at most in an edge of up to so many: what its disk must hold."""
    return epochs if rule == "paper" else min(epochs, LATEST + epochs // EVERY + 1)


def _no_knee(status: Literal["short", "at_chance", "nonfinite", "failed"], explanation: str) -> KneeFit:
    return KneeFit(None, float("nan"), 0, (), float("nan"), status, explanation)


def _fit_paper(y: npt.NDArray[np.float64]) -> KneeFit:
    if len(y) < 5:
        return _no_knee("short", f"{len(y)} points are too few for five parameters")
    try:
        params, rmse = fit_five(y)
    except (RuntimeError, ValueError) as error:
        return _no_knee("failed", f"least squares found no fit: {error}")
    fitted = model(np.arange(PAPER_HORIZON + 1, dtype=np.float64), *params)
    if not np.isfinite(fitted).all():
        return _no_knee("failed", "the fitted curve is not finite")
    knee = int(fitted.argmax())
    accuracy = float(np.clip(fitted[knee], 0, 1))
    return KneeFit(
        knee, accuracy, 0, tuple(map(float, params)), rmse, "fitted", f"argmax over epochs 0..{PAPER_HORIZON}"
    )


def _shifted(fit: KneeFit, first: int) -> KneeFit:
    return fit if fit.knee is None else replace(fit, knee=first + fit.knee, first=first)


def _flat_start(y: npt.NDArray[np.float64], threshold: float) -> int:
    flat = np.flatnonzero(y < threshold)
    return max(min(int(flat.max(initial=0)), len(y) - _FEWEST_POINTS), 0)


def _fit_within_tolerance(y_BN: npt.NDArray[np.float64], rule: KneeRule, tolerance: float) -> list[KneeFit]:
    power = rule == "power"
    params_B5, rmse_B = fit_projected(FAMILIES[rule], y_BN)
    x = np.arange(HORIZON_FACTOR * y_BN.shape[1], dtype=np.float64)
    fitted_BH = model(x, *params_B5.T[:, :, None], power=power)
    knees_B = (fitted_BH >= fitted_BH.max(axis=1, keepdims=True) - tolerance).argmax(axis=1)
    accuracies_B = np.clip(fitted_BH[np.arange(len(y_BN)), knees_B], 0, 1)
    explanation = f"within {tolerance:g} of the fitted maximum"
    return [
        KneeFit(knee, accuracy, 0, tuple(params), rmse, "fitted", explanation, power)
        for knee, accuracy, params, rmse in zip(
            knees_B.tolist(), accuracies_B.tolist(), params_B5.tolist(), rmse_B.tolist(), strict=True
        )
    ]
