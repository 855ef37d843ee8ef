"""Successive halving (Jamieson and Talwalkar, AISTATS 2016): many candidates for a while, the better half for longer.

Every rung trains its survivors further, as many epochs in all as any other rung, and half of them go on. The last one
is the answer. What is trained and then dropped is part of the price: the rungs together spend the whole budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastplan.errors import UserError


@dataclass(frozen=True)
class Rung:
    """survivors: how many are trained. epochs: up to which, counted from each one's beginning."""

    survivors: int
    epochs: int


def rungs(candidates: int, epochs: int) -> tuple[Rung, ...]:
    """The rungs from `candidates` (>= 1) to one, which train exactly `epochs` epochs in all, the last takes the rest.

    Raises `UserError` where that is too little for an epoch of everyone in every rung.
    """
    counts = [candidates]
    while counts[-1] > 1:
        counts.append((counts[-1] + 1) // 2)
    if epochs < sum(counts):
        raise UserError(
            f"{epochs} epochs are too few to halve {candidates} candidates: {sum(counts)} are an epoch of each in "
            f"{len(counts)} rungs"
        )
    found: list[Rung] = []
    left, reached = epochs, 0
    for number, count in enumerate(counts):
        after = counts[number + 1 :]
        equal = round(left / (1 + len(after)) / count)
        more = min(max(equal, 1), (left - sum(after)) // count) if after else left
        left -= more * count
        reached += more
        found.append(Rung(count, reached))
    return tuple(found)


def best(accuracies: Sequence[float], count: int) -> list[int]:
    """Places of the `count` highest, in their old order; of equals the first, a nan (diverged) last."""
    order = sorted(range(len(accuracies)), key=lambda i: (accuracies[i] != accuracies[i], -accuracies[i], i))
    return sorted(order[:count])
