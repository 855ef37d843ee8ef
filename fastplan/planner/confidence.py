"""How sure a knee is: a parametric bootstrap of the fit, and when an edge is hopeless.

The fitted curve plus Gaussian noise of the size of the residuals is drawn and fitted again `samples` times; quantiles
of the knees and of the highest fitted accuracies are the band. A pure function of its arguments, the seed included.
"""

import math
from collections.abc import Sequence

import numpy as np

from fastplan.planner.arrivals import Outcome
from fastplan.planner.curve import FAMILIES, HORIZON_FACTOR, PAPER_HORIZON, KneeBand, KneeFit, KneeRule
from fastplan.planner.fitting import fit_projected, model

_PARAMETERS = {"tolerance": 5, "paper": 5, "power": 3, "exponential": 3}


def knee_band(
    accuracies: Sequence[float],
    fit: KneeFit,
    *,
    rule: KneeRule = "tolerance",
    tolerance: float = 0.005,
    noise: float = 0.0,
    max_epochs: int | None = None,
    level: float = 0.8,
    samples: int = 64,
    seed: int = 0,
) -> KneeBand | None:
    """The band around a fit, None where the fit has no knee.

    fit: of these accuracies, by the same rule and tolerance.
    noise: least standard deviation of one validation, >= 0, such as sqrt(p (1 - p) / videos). The larger of this and
        the residual estimate sqrt(n rmse^2 / (n - parameters)) counts, since a handful of points fits too well.
    max_epochs: the ceiling is the highest fitted accuracy over epochs up to here; None: over four times those seen.
    level, samples, seed: probability of the band in (0, 1), draws >= 2, and their random seed.

    The `paper` rule is drawn with b on the grid of `fastplan.planner.fitting`, without polishing each draw.
    Raises `ValueError` for a level, a number of samples or a noise out of range.
    """
    if not 0 < level < 1 or samples < 2 or not noise >= 0:
        raise ValueError(
            f"level {level}, samples {samples}, noise {noise}: want 0 < level < 1, samples >= 2, noise >= 0"
        )
    if fit.knee is None:
        return None
    n = len(accuracies) - fit.first
    freedom = max(n - _PARAMETERS[rule], 1)
    sigma = max(math.sqrt(n / freedom) * fit.rmse, noise)
    fitted_N = fit.predict(np.arange(fit.first, len(accuracies)))
    draws_BN = fitted_N + sigma * np.random.default_rng(seed).standard_normal((samples, n))
    params_B5, _ = fit_projected(FAMILIES[rule], draws_BN)
    horizon = PAPER_HORIZON + 1 if rule == "paper" else HORIZON_FACTOR * n
    curves_BH = model(np.arange(horizon, dtype=np.float64), *params_B5.T[:, :, None], power=rule == "power")
    slack = 0.0 if rule == "paper" else tolerance
    knees_B = fit.first + (curves_BH >= curves_BH.max(axis=1, keepdims=True) - slack).argmax(axis=1)
    reach = horizon if max_epochs is None else max(max_epochs - fit.first + 1, 1)
    ceilings_B = curves_BH[:, :reach].max(axis=1)
    tails = ((1 - level) / 2, (1 + level) / 2)
    knee_low, knee_high = np.quantile(knees_B, tails, method="inverted_cdf")
    ceiling_low, ceiling_high = np.quantile(ceilings_B, tails)
    return KneeBand(level, int(knee_low), int(knee_high), float(ceiling_low), float(ceiling_high), sigma)


def is_hopeless(
    accuracies: Sequence[float],
    band: KneeBand | None,
    rival: Outcome | None,
    *,
    attempt_epochs: int,
    z: float = 1.0,
    margin: float = 0.0,
) -> bool:
    """Whether an edge can stop because its ceiling, upper band included, is below its best sibling's accuracy.

    band: with `max_epochs` set, of this edge. rival: the best outcome of another way into the same state.
    attempt_epochs: fewest epochs trained before giving up. z: standard errors of the sibling, margin: accuracy, by
        which the ceiling must be lower; both >= 0. An edge from random weights that has not left chance has no band
        and is never hopeless.
    """
    if band is None or rival is None or len(accuracies) - 1 < attempt_epochs:
        return False
    return max(band.ceiling_high, max(accuracies)) < rival.accuracy - z * rival.stderr - margin
