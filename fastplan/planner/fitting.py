"""Least-squares fits of performance-epoch curves; x counts epochs from 0, y is an accuracy.

All models are cases of f(x) = -a g(x) - c x - d x^2 + e with e, a, d >= 0 and g(x) = exp(-b x), or (1 + x)^-b for the
power law. For a given b the rest is linear, so b runs over a grid and the others follow by non-negative least squares
(variable projection). With four unknowns at most, every support is tried: the exact optimum, many curves at a time.
"""

from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

Array = npt.NDArray[np.float64]
Family = Literal["concave", "free", "exponential", "power"]

DECAYS = np.geomspace(0.02, 3.0, 24)
_STARTS = 3  # local minima over the grid of b from which the five-parameter fit is polished


def model(x: Array, a: float, b: float, c: float, d: float, e: float, *, power: bool = False) -> Array:
    """f at each of `x` [N] for scalar parameters, or for [B, 1] parameters as [B, N]."""
    decay = (1 + x) ** -b if power else np.exp(-b * x)
    return np.asarray(-a * decay - c * x - d * x * x + e)


def fit_projected(family: Family, y_BN: Array) -> tuple[Array, Array]:
    """Fit many curves of one length. Returns parameters a, b, c, d, e [B, 5] and root mean square residuals [B].

    family: `concave` has c >= 0, `free` any c, `exponential` c = d = 0, `power` the same with a power law. b lies
        within the range of `DECAYS`: the best of them, moved to the lowest point of the parabola through its
        neighbours' residuals over log b where that is better.
    """
    params_GB5, squares_GB = _fit_grid(family, y_BN)
    best_B = squares_GB.argmin(axis=0)
    params_B5 = params_GB5[best_B, np.arange(len(y_BN))]
    rmse_B = _rmse(family, params_B5, y_BN)
    refined_B5 = _refine(family, y_BN, params_B5, squares_GB, best_B)
    refined_rmse_B = _rmse(family, refined_B5, y_BN)
    better_B = (refined_B5[:, [0, 3, 4]] >= 0).all(axis=1) & (refined_rmse_B < rmse_B)
    if family == "concave":
        better_B &= refined_B5[:, 2] >= 0
    return np.where(better_B[:, None], refined_B5, params_B5), np.where(better_B, refined_rmse_B, rmse_B)


def fit_five(y: Array) -> tuple[Array, float]:
    """The published fit: a, b, d, e >= 0, c free, by bounded least squares from the best starts of a grid over b.

    y: [N], at least 5 epochs. Returns the five parameters and the root mean square residual. The Jacobian is
    (-exp(-b x), a x exp(-b x), -x, -x^2, 1).
    """
    x = np.arange(len(y), dtype=np.float64)
    params_G5, squares_G = (found[:, 0] for found in _fit_grid("free", y[None]))
    inner = np.pad(squares_G, 1, constant_values=np.inf)
    minima = np.flatnonzero((squares_G <= inner[:-2]) & (squares_G <= inner[2:]))
    starts = minima[np.argsort(squares_G[minima], kind="stable")][:_STARTS]

    def residuals(p: Array) -> Array:
        return model(x, *p) - y

    def jacobian(p: Array) -> Array:
        decay = np.exp(-p[1] * x)
        return np.stack([-decay, p[0] * x * decay, -x, -x * x, np.ones_like(x)], axis=1)

    lower = np.array([0.0, 0.0, -np.inf, 0.0, 0.0])
    found = [
        least_squares(residuals, params_G5[i], jac=jacobian, bounds=(lower, np.inf), x_scale="jac", max_nfev=100)
        for i in starts
    ]
    best = min(found, key=lambda fit: fit.cost)
    return np.asarray(best.x), float(np.sqrt(2 * best.cost / len(y)))


def _rmse(family: Family, params_B5: Array, y_BN: Array) -> Array:
    x = np.arange(y_BN.shape[1], dtype=np.float64)
    fitted_BN = model(x, *params_B5.T[:, :, None], power=family == "power")
    return np.asarray(np.sqrt(np.mean((fitted_BN - y_BN) ** 2, axis=1)))


def _refine(family: Family, y_BN: Array, params_B5: Array, squares_GB: Array, best_B: npt.NDArray[np.intp]) -> Array:
    """Parameters with b between the grid's points and the support of the best of them; signs are not looked at."""
    curves = np.arange(len(y_BN))
    at_B = best_B.clip(1, len(DECAYS) - 2)
    before_B, middle_B, after_B = (squares_GB[at_B + step, curves] for step in (-1, 0, 1))
    bend_B = before_B - 2 * middle_B + after_B
    shift_B = np.divide(before_B - after_B, 2 * bend_B, out=np.zeros_like(bend_B), where=bend_B > 0).clip(-1, 1)
    step = np.log(DECAYS[1] / DECAYS[0])
    b_B1 = (DECAYS[at_B] * np.exp(shift_B * step))[:, None]
    x = np.arange(y_BN.shape[1], dtype=np.float64)
    u = x / len(x)
    decay_BN = (1 + x) ** -b_B1 if family == "power" else np.exp(-b_B1 * x)
    columns_BNK = np.stack([-decay_BN, *(np.broadcast_to(c, decay_BN.shape) for c in (-u, -u * u, np.ones_like(u)))], 2)
    support_BK = params_B5[:, [0, 2, 3, 4]] != 0
    columns_BNK *= support_BK[:, None, :]
    weights_BK = (np.linalg.pinv(columns_BNK, rcond=1e-12) @ y_BN[:, :, None])[:, :, 0] * support_BK
    refined_B5 = np.zeros_like(params_B5)
    refined_B5[:, [0, 2, 3, 4]] = weights_BK / [1, len(x), len(x) ** 2, 1]
    refined_B5[:, 1] = b_B1[:, 0]
    return refined_B5


def _fit_grid(family: Family, y_BN: Array) -> tuple[Array, Array]:
    """For every b of the grid the best other parameters: [G, B, 5] and sums of squared residuals [G, B]."""
    count, n = y_BN.shape
    columns_GNK, inverses_GSKN = _solvers(family, n)
    weights_GSKB = inverses_GSKN @ y_BN.T
    products_GKB = columns_GNK.transpose(0, 2, 1) @ y_BN.T
    # at a least-squares solution w of its support, the residual is y'y - w'X'y
    squares_GSB = (y_BN**2).sum(axis=1) - (weights_GSKB * products_GKB[:, None]).sum(axis=2)
    squares_GSB[(weights_GSKB < 0).any(axis=2)] = np.inf
    best_GB = squares_GSB.argmin(axis=1)
    weights_GKB = np.take_along_axis(weights_GSKB, best_GB[:, None, None, :], axis=1)[:, 0]
    params_GB5 = np.zeros((len(DECAYS), count, 5))
    params_GB5[..., 0] = weights_GKB[:, 0]
    params_GB5[..., 1] = DECAYS[:, None]
    params_GB5[..., 4] = weights_GKB[:, 1]
    if family in ("concave", "free"):
        params_GB5[..., 2] = weights_GKB[:, 2] / n
        params_GB5[..., 3] = weights_GKB[:, 3] / n**2
    if family == "free":
        params_GB5[..., 2] -= weights_GKB[:, 4] / n
    return params_GB5, np.maximum(np.take_along_axis(squares_GSB, best_GB[:, None], axis=1)[:, 0], 0)


@lru_cache(maxsize=64)  # 12 kB an epoch for `concave`; an edge asks for one length after another
def _solvers(family: Family, n: int) -> tuple[Array, Array]:
    """Columns [G, N, K] for every b, and the pseudo-inverse for every support [G, S, K, N]."""
    x = np.arange(n, dtype=np.float64)
    decay_GN = (1 + x) ** -DECAYS[:, None] if family == "power" else np.exp(-DECAYS[:, None] * x)
    others = [np.ones(n)]
    if family in ("concave", "free"):
        others += [-x / n, -((x / n) ** 2)]  # x / n, so that the columns compare in size
    if family == "free":
        others.append(x / n)
    columns_GNK = np.stack([-decay_GN, *(np.broadcast_to(o, decay_GN.shape) for o in others)], axis=2)
    supports_SK = np.array(list(product((0.0, 1.0), repeat=columns_GNK.shape[2])))
    inverses_GSKN = np.linalg.pinv(columns_GNK[:, None] * supports_SK[None, :, None, :], rcond=1e-12)
    inverses_GSKN *= supports_SK[None, :, :, None]  # rounding leaves specks where a column is out
    return columns_GNK, inverses_GSKN
