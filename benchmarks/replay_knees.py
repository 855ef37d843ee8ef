"""Follows a curve epoch by epoch under a knee rule, as training would, and says where the rule ended."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fastplan.planner import KneeFit, KneeRule, Stop, choose_epoch, fit_knee, fit_knees, knee_band, should_stop

from .replay_families import CHANCE, EPOCHS, KINDS, VIDEOS, CurveRow, curve_rows

TOLERANCE = 0.005
EARLY = 0.02  # a kept epoch this far below the best of the true curve was kept too early (or past a fall)
LATE = 15  # trained this many epochs past the true knee was too late


@dataclass(frozen=True)
class EndRule:
    """A rule for ending an edge: `level` is that of the band, None to wait `attempt` epochs past one fit's knee."""

    name: str
    rule: KneeRule
    attempt: int
    level: float | None = None

    @property
    def is_slow(self) -> bool:
        """Whether a fit cannot be made for many curves at once, or is made with its band."""
        return self.rule == "paper" or self.level is not None


RULES = (
    EndRule("published, T = 10", "paper", 10),
    EndRule("published, T = 5", "paper", 5),
    EndRule("tolerance, T = 10", "tolerance", 10),
    EndRule("tolerance, T = 5", "tolerance", 5),
    EndRule("tolerance, T = 3", "tolerance", 3),
    EndRule("exponential, T = 5", "exponential", 5),
    EndRule("power law, T = 5", "power", 5),
    EndRule("tolerance, known at 80 %", "tolerance", 5, 0.8),
    EndRule("tolerance, known at 95 %", "tolerance", 5, 0.95),
    EndRule("exponential, known at 80 %", "exponential", 5, 0.8),
)


@dataclass(frozen=True)
class End:
    """Where a rule ended an edge: why, epochs trained, epoch kept, and its last fit."""

    stop: Stop
    trained: int
    kept: int
    fit: KneeFit


Fitter = Callable[[int], KneeFit]
Found = dict[str, list[tuple[str, End, int, float]]]  # by rule: kind of curve, end, true knee, regret


def follow(observed: Sequence[float], rule: EndRule, *, from_scratch: bool, fit_at: Fitter | None = None) -> End:
    """Train until the rule ends the edge or the curve has no more epochs (the cap)."""
    last = len(observed) - 1
    for epoch in range(min(rule.attempt, last), last + 1):
        seen = observed[: epoch + 1]
        fit = fit_at(epoch) if fit_at else fit_curve(seen, rule.rule, from_scratch)
        band = None
        if rule.level is not None and fit.knee is not None:
            if fit.knee > epoch and epoch < last:
                continue  # its band ends no earlier than the knee itself
            band = knee_band(seen, fit, rule=rule.rule, tolerance=TOLERANCE, noise=noise_of(seen), level=rule.level)
        stop = should_stop(seen, fit, attempt_epochs=rule.attempt, max_epochs=last, band=band)
        if stop is not Stop.TRAIN:
            return End(stop, epoch, choose_epoch(seen, fit, rule=rule.rule, from_scratch=from_scratch), fit)
    raise AssertionError("should_stop ends every edge at its last epoch")


def fit_curve(seen: Sequence[float], rule: KneeRule, from_scratch: bool) -> KneeFit:
    """The fit of a prefix of a curve, with the settings of the bench."""
    return fit_knee(seen, rule=rule, tolerance=TOLERANCE, chance=CHANCE if from_scratch else None)


def noise_of(seen: Sequence[float]) -> float:
    """Binomial standard deviation of the last validation."""
    p = min(max(seen[-1], 0.01), 0.99)
    return float((p * (1 - p) / VIDEOS) ** 0.5)


def knee_tables(n: int, n_slow: int, recorded: Path) -> str:
    """Markdown: every rule on `n` generated curves (slow ones on `n_slow`), and on the recorded ones if any."""
    drawn = curve_rows(n)
    seen = [row.draw()[1].tolist() for row in drawn]
    found: Found = {}
    for rule in RULES:
        fits = {} if rule.is_slow else _fit_all(drawn, seen, rule)
        for i, row in enumerate(drawn[: n_slow if rule.is_slow else n]):
            truth = row.truth()
            fit_at = None if rule.is_slow else partial(_look_up, fits, i)
            end = follow(seen[i], rule, from_scratch=row.from_scratch, fit_at=fit_at)
            knee = int((truth >= truth.max() - TOLERANCE).argmax())
            found.setdefault(rule.name, []).append((row.kind, end, knee, float(truth.max() - truth[end.kept])))
    return f"{_generated_table(found, drawn)}\n{_kinds_table(found)}\n{_recorded_table(recorded)}"


def _look_up(fits: dict[tuple[int, int], KneeFit], curve: int, epoch: int) -> KneeFit:
    return fits[curve, epoch]


def _fit_all(drawn: list[CurveRow], seen: list[list[float]], rule: EndRule) -> dict[tuple[int, int], KneeFit]:
    """Fits of every curve after every epoch until the rule has ended it, many curves at a time."""
    fits, going = {}, set(range(len(drawn)))
    for epoch in range(rule.attempt, EPOCHS + 1):
        for scratch in (False, True):
            members = [i for i in sorted(going) if drawn[i].from_scratch is scratch]
            chance = CHANCE if scratch else None
            curves = [seen[i][: epoch + 1] for i in members]
            for i, fit in zip(
                members, fit_knees(curves, rule=rule.rule, tolerance=TOLERANCE, chance=chance), strict=True
            ):
                fits[i, epoch] = fit
                if fit.knee is not None and epoch >= fit.knee + rule.attempt:
                    going.remove(i)
    return fits


def _generated_table(found: Found, drawn: list[CurveRow]) -> str:
    truths = [row.truth() for row in drawn]
    knee = np.mean([(truth >= truth.max() - TOLERANCE).argmax() for truth in truths])
    lines = [
        f"## {len(drawn)} generated curves ({', '.join(KINDS)} in turn; {EPOCHS} epochs, {VIDEOS} validation videos)",
        "",
        "Regret: best of the true curve less the true accuracy at the kept epoch, in points. "
        f"Too early: regret above {EARLY * 100:.0f} points. "
        f"Too late: ended by itself more than {LATE} epochs past the true knee. Never: ran to the cap of {EPOCHS}. "
        f"The true knee is the first epoch within {TOLERANCE * 100:g} points of the best, {knee:.1f} on average. "
        "Rules that are slow to compute are measured on the first curves only; n says on how many.",
        "",
        "| rule | n | epochs trained | too early | too late | never | regret, mean | regret, 95th percentile |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, ends in found.items():
        regrets = np.array([100 * regret for *_, regret in ends])
        early = np.mean(regrets > 100 * EARLY)
        never = np.mean([end.stop is Stop.CAP for _, end, _, _ in ends])
        late = np.mean([end.stop is Stop.KNEE and end.trained > knee + LATE for _, end, knee, _ in ends])
        trained = np.mean([end.trained for _, end, _, _ in ends])
        lines.append(
            f"| {name} | {len(ends)} | {trained:.1f} | {early:.1%} | {late:.1%} | {never:.1%} | {regrets.mean():.2f} | "
            f"{np.quantile(regrets, 0.95):.1f} |"
        )
    return "\n".join(lines) + "\n"


def _kinds_table(rows: Found) -> str:
    lines = ["Epochs trained / regret in points / never, by kind of curve:", "", f"| rule | {' | '.join(KINDS)} |"]
    lines.append("|---" * (len(KINDS) + 1) + "|")
    for name, found in rows.items():
        cells = []
        for kind in KINDS:
            mine = [(end, regret) for k, end, _, regret in found if k == kind]
            trained = np.mean([end.trained for end, _ in mine])
            never = np.mean([end.stop is Stop.CAP for end, _ in mine])
            cells.append(f"{trained:.0f} / {100 * np.mean([r for _, r in mine]):.1f} / {never:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_recorded(folder: Path) -> list[tuple[bool, list[float]]]:
    """Recorded curves at one learning rate: (whether from random weights, accuracies from epoch 0 on)."""
    curves = []
    for file in ("trial1.jsonl", "trial2.jsonl"):
        for line in (folder / file).read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            edges = [run] if run.get("k") == "edge" else run.get("edges", [])
            for edge in edges:
                accuracies = [CHANCE, *edge["acc"][1:]] if edge["u"] == 0 else edge["acc"]
                curves.append((edge["u"] == 0, [float(a) for a in accuracies]))
            if run.get("arm") in ("const_b1.4", "const_b2.45", "const_lr0.0125", "const_lr0.1") and run.get("ep"):
                curves.append((True, [CHANCE, *(float(epoch[4]) for epoch in run["ep"])]))
    return [curve for curve in curves if len(curve[1]) > 5]


def _recorded_table(folder: Path) -> str:
    if not (folder / "trial2.jsonl").exists():
        return "## Recorded curves\n\nSkipped: the recorded curves are not beside this checkout.\n"
    curves = read_recorded(folder)
    lines = [
        f"## {len(curves)} recorded curves of the embedded task, {sum(len(c) - 1 for _, c in curves)} epochs",
        "",
        "The truth is unknown and most records end where another rule had ended them, so a rule that wants to go on "
        "past a record is counted apart. Regret: best of the centred three-epoch mean of the whole record less that "
        "mean at the kept epoch, in points, over the curves that the rule ended itself.",
        "",
        "| rule | ended itself | past the record | epochs trained, ended | regret, mean | too early |",
        "|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        trained, regrets, past = [], [], 0
        for from_scratch, curve in curves:
            end = follow(curve, rule, from_scratch=from_scratch)
            if end.stop is Stop.CAP:
                past += 1
                continue
            padded = np.pad(curve, 1, mode="edge")
            smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
            trained.append(end.trained)
            regrets.append(100 * float(smooth.max() - smooth[end.kept]))
        cells = f"{np.mean(trained):.1f} | {np.mean(regrets):.1f} | {np.mean(np.array(regrets) > 100 * EARLY):.0%}"
        lines.append(f"| {rule.name} | {len(trained)} | {past} | {cells if trained else '- | - | -'} |")
    return "\n".join(lines) + "\n"
