"""The driver's side of an edge: asks for epochs until its rules end it, then for a score; writes the journal.

`explore` and `train_leg` are generators: they yield a `Request`, are sent its answer, and return what came of it. So
the same few lines serve one process and many workers, and everything is decided in one place, from the journal alone.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from torch.utils.tensorboard import SummaryWriter

from fastplan.budget import Budget, Spending
from fastplan.config import RunConfig
from fastplan.planner.arrivals import Outcome, Progress, state_of_key
from fastplan.planner.confidence import is_hopeless, knee_band
from fastplan.planner.curve import KneeBand, KneeFit, Stop, choose_epoch, epochs_in_play, fit_knee, should_stop
from fastplan.planner.journal import EpochRecord, Journal
from fastplan.planner.plans import Leg
from fastplan.rundir import RunDir
from fastplan.train.edge import Answer, EdgeTraining, EpochDone, Request
from fastplan.train.evaluate import Evaluation
from fastplan.train.store import Store
from fastplan.watcher import Watcher

Exploring = Generator[Request, Answer, Outcome | Progress | None]
Rival = Callable[[], Outcome | None]

_CEILING_LEVEL = 0.8  # of the band whose upper end is the highest that an edge may still reach


@dataclass(frozen=True)
class _Rules:
    """When an edge ends: `max_epochs` exactly, or `attempt_epochs` past its knee and at most `max_epochs`.

    With `plan.known_knee` it is when the knee is known, `attempt_epochs` after its beginning or later.

    longest: the cap, instead of `max_epochs`, of an edge from random weights that has left its plateau.
    keeps_last: whether its last weights are what is kept; else any epoch in play may turn out to be the best.
    until: pause after that epoch unless the edge has ended by then.
    """

    attempt_epochs: int
    max_epochs: int
    longest: int | None = None
    exact: bool = False
    keeps_last: bool = False
    until: int | None = None


class Explorer:
    """What all edges of a run share.

    chance: accuracy of guessing, None where the initial weights know more. videos: how many decide. clips: in an epoch.
    """

    def __init__(
        self,
        rundir: RunDir,
        journal: Journal,
        store: Store,
        config: RunConfig,
        watcher: Watcher,
        *,
        chance: float | None,
        videos: int,
        clips: int,
    ) -> None:
        self._rundir, self._journal, self._store = rundir, journal, store
        self._config, self._watcher = config, watcher
        self._chance, self._videos, self._clips = chance, videos, clips
        self._spending = Spending(Budget.parse(config.plan.budget) if config.plan.budget else None)
        for key in journal.edges():
            for record in journal.epochs(key):
                self._spending.end(key, state_of_key(key), record)
        self._scalars = SummaryWriter(str(rundir.tensorboard_dir))

    def close(self) -> None:
        """Close the file of scalars."""
        self._scalars.close()

    def affords(self, edge: EdgeTraining) -> bool:
        """Whether the budget allows another epoch of this edge."""
        return self._spending.allows(edge.state.name, self._clip_frames(edge))

    def may_begin(self, edge: EdgeTraining) -> bool:
        """Whether to begin an edge, or to go on with it: one that the budget cut short before has a score at least."""
        return len(self._journal.epochs(edge.key)) > 1 or self.affords(edge)

    def explore(
        self, edge: EdgeTraining, *, rival: Rival, longest: int | None = None, until: int | None = None
    ) -> Exploring:
        """Train one edge to its end, or to a pause, and keep the checkpoint that `choose_epoch` names.

        rival: the best outcome so far of another way into the same state, for `plan.ceiling`. longest: the cap of an
        edge from the start that has left its plateau, None for `plan.max_epochs` (`StateGraph.caps`). until: where to
        pause; its checkpoints stay. Returns None where the budget allowed not one epoch. An edge that the budget cut
        short is not finished: a larger one goes on with it.
        """
        plan = self._config.plan
        rules = _Rules(plan.attempt_epochs, plan.max_epochs, longest, until=until)
        stop, fit = yield from self._train(edge, rules, rival)
        records = self._journal.epochs(edge.key)
        accuracies = [record.accuracy for record in records]
        if stop is Stop.PAUSE:
            self._watcher.pause_edge(edge.key)
            return _progress(edge, records)
        if stop is Stop.DIVERGED:
            return self._finish(edge, _diverged(edge, records, fit.explanation))
        if stop is Stop.BUDGET and len(records) == 1:
            return None
        epoch = choose_epoch(accuracies, fit, rule=plan.knee, from_scratch=edge.parent is None)
        score = yield Request(edge, epoch, "score")
        assert isinstance(score, Evaluation)
        accuracy = score.video_top1 if plan.score == "measured" or fit.knee is None else fit.accuracy
        kept = self._store.weights_name(edge.key, epoch) if epoch else edge.parent
        outcome = _outcome(edge, records, epoch, stop.value, accuracy, score.stderr, kept, fit.explanation)
        if stop is Stop.BUDGET:
            self._watcher.end_edge(edge.key, outcome)
            return outcome
        return self._finish(edge, outcome)

    def known(self, edge: EdgeTraining, until: int | None) -> Outcome | Progress | None:
        """What the journal answers to `explore`; None where there is something left to train."""
        outcome, records = self._journal.outcome(edge.key), self._journal.epochs(edge.key)
        trained, behind = len(records) - 1, outcome is not None and outcome.status == "behind"
        if until is not None and (trained > until or (behind and trained == until)):
            return _progress(edge, records[: until + 1])
        return None if behind else outcome

    def give_up(self, edge: EdgeTraining, why: str) -> Outcome:
        """Write down that a paused edge is not trained on, and delete its checkpoints."""
        outcome = self._journal.outcome(edge.key)
        if outcome is None:
            records = self._journal.epochs(edge.key)
            best = max(record.accuracy for record in records)
            stderr = math.sqrt(best * (1 - best) / self._videos)
            outcome = self._finish(edge, _outcome(edge, records, 0, "behind", best, stderr, None, why))
        return outcome

    def train_leg(self, edge: EdgeTraining, leg: Leg) -> Exploring:
        """Train one leg of a plan; its last weights are kept, nothing is rolled back."""
        exact = self._config.exact or leg.schedule != "constant"
        rules = _Rules(
            self._config.plan.replay_attempt_epochs,
            leg.epochs if exact else 2 * leg.epochs,
            exact=exact,
            keeps_last=True,
        )
        stop, fit = yield from self._train(edge, rules, lambda: None)
        records = self._journal.epochs(edge.key)
        if stop is Stop.DIVERGED:
            return self._finish(edge, _diverged(edge, records, fit.explanation))
        epoch = records[-1].epoch
        score = yield Request(edge, epoch, "score")
        assert isinstance(score, Evaluation)
        note = f"{leg.epochs} epochs as planned" if exact else f"planned {leg.epochs} epochs"
        kept = self._store.weights_name(edge.key, epoch)
        return self._finish(
            edge, _outcome(edge, records, epoch, stop.value, score.video_top1, score.stderr, kept, note)
        )

    def _train(
        self, edge: EdgeTraining, rules: _Rules, rival: Rival
    ) -> Generator[Request, Answer, tuple[Stop, KneeFit]]:
        """Ask for epochs, from the last one in the journal on, until the rules end the edge."""
        plan, records = self._config.plan, self._journal.epochs(edge.key)
        self._watcher.begin_edge(
            edge.key, edge.source, edge.state, max(len(records) - 1, 0), rules.longest or rules.max_epochs
        )
        if not records:
            records = [self._commit(edge, (yield Request(edge, 0)))]
        on_disk = {record.epoch for record in records}
        while True:
            epoch = records[-1].epoch
            accuracies = [record.accuracy for record in records]
            on_disk = self._delete_ruled_out(edge, accuracies, rules, on_disk | {epoch})
            fit = fit_knee(
                accuracies,
                rule=plan.knee,
                tolerance=plan.tolerance,
                chance=self._chance if edge.parent is None else None,
                scratch_margin=plan.scratch_margin,
            )
            self._journal.record_fit(edge.key, epoch, fit)
            stop = self._decide(accuracies, fit, self._capped(rules, accuracies), rival)
            if stop is Stop.TRAIN and rules.until is not None and epoch >= rules.until:
                stop = Stop.PAUSE
            if stop is Stop.TRAIN and not self.affords(edge):
                stop = Stop.BUDGET
            self._watcher.epoch(edge.key, records[-1], fit, stop)
            if stop is not Stop.TRAIN:
                return stop, fit
            self._spending.begin(edge.key, edge.state.name, self._clip_frames(edge))
            records.append(self._commit(edge, (yield Request(edge, epoch + 1))))

    def _decide(self, accuracies: list[float], fit: KneeFit, rules: _Rules, rival: Rival) -> Stop:
        plan, epoch = self._config.plan, len(accuracies) - 1
        if rules.exact and fit.status != "nonfinite":
            return Stop.PLANNED if epoch >= rules.max_epochs else Stop.TRAIN
        known = None
        if plan.known_knee and fit.knee is not None and fit.knee <= epoch:
            known = self._band(accuracies, fit, rules, plan.known_knee)
        stop = should_stop(
            accuracies, fit, attempt_epochs=rules.attempt_epochs, max_epochs=rules.max_epochs, band=known
        )
        best = rival() if plan.ceiling and stop is Stop.TRAIN else None
        if best is None:
            return stop
        band = self._band(accuracies, fit, rules, _CEILING_LEVEL)
        hopeless = is_hopeless(accuracies, band, best, attempt_epochs=rules.attempt_epochs)
        return Stop.CEILING if hopeless else Stop.TRAIN

    def _band(self, accuracies: list[float], fit: KneeFit, rules: _Rules, level: float) -> KneeBand | None:
        plan = self._config.plan
        noise = math.sqrt(accuracies[-1] * (1 - accuracies[-1]) / self._videos)
        most = rules.max_epochs
        return knee_band(
            accuracies, fit, rule=plan.knee, tolerance=plan.tolerance, noise=noise, max_epochs=most, level=level
        )

    def _capped(self, rules: _Rules, accuracies: list[float]) -> _Rules:
        """The rules with the cap of this curve: what is at chance after `max_epochs` is not waited for any longer."""
        risen = self._chance is None or max(accuracies) >= self._chance + self._config.plan.scratch_margin
        return replace(rules, max_epochs=rules.longest) if rules.longest and risen else rules

    def _commit(self, edge: EdgeTraining, answer: Answer) -> EpochRecord:
        """Write a finished epoch down; from then on it is never trained again."""
        assert isinstance(answer, EpochDone)
        record, stats = answer.record, answer.stats
        self._journal.record_epoch(edge.key, record)
        self._spending.end(edge.key, edge.state.name, record)
        if stats is None:
            return record
        speed = stats.clips / stats.seconds
        for name, value in (("val_top1", record.accuracy), ("train_loss", record.loss), ("clips_per_s", speed)):
            self._scalars.add_scalar(f"{edge.key.replace('>', '->')}/{name}", value, record.epoch)
        self._rundir.log(
            "epoch",
            edge=edge.key,
            epoch=record.epoch,
            lr=edge.state.lr,
            loss=_finite(stats.loss),
            top1=_finite(record.accuracy),
            grad_norm=_finite(stats.grad_norm),
            clips=stats.clips,
            clips_per_s=round(speed, 2),
            data_s=round(stats.data_seconds, 3),
            seconds=round(stats.seconds, 3),
            worker=record.worker,
        )
        return record

    def _delete_ruled_out(
        self, edge: EdgeTraining, accuracies: list[float], rules: _Rules, on_disk: set[int]
    ) -> set[int]:
        """Delete what an edge under way needs no more, of the epochs `on_disk`; returns those that stay."""
        epoch = len(accuracies) - 1
        from_scratch = edge.parent is None
        needed = {epoch}
        if not rules.keeps_last:
            needed = epochs_in_play(accuracies, rule=self._config.plan.knee, from_scratch=from_scratch)
        for ended in on_disk - needed - {0}:
            self._store.delete(self._store.weights_name(edge.key, ended))
        if epoch > 1:
            self._store.delete(self._store.optimizer_name(edge.key, epoch - 1))
        return needed

    def _finish(self, edge: EdgeTraining, outcome: Outcome) -> Outcome:
        self._journal.record_edge(edge.key, outcome)
        store = self._store
        store.delete(store.optimizer_name(edge.key, outcome.trained))
        for epoch in range(1, outcome.trained + 1):
            if (name := store.weights_name(edge.key, epoch)) != outcome.checkpoint:
                store.delete(name)
        self._rundir.log("edge", edge=edge.key, status=outcome.status, epochs=outcome.epochs,
                         trained=outcome.trained, top1=_finite(outcome.accuracy))  # fmt: skip
        self._watcher.end_edge(edge.key, outcome)
        return outcome

    def _clip_frames(self, edge: EdgeTraining) -> int:
        """Frames that an epoch of this edge trains on."""
        return edge.state.clip_frames(self._clips)


def _outcome(
    edge: EdgeTraining,
    records: list[EpochRecord],
    epoch: int,
    status: str,
    accuracy: float,
    stderr: float,
    kept: str | None,
    note: str,
) -> Outcome:
    paid = records[1 : epoch + 1]
    return Outcome(
        source=edge.source,
        target=edge.state.name,
        status=status,  # type: ignore[arg-type]
        epochs=epoch,
        trained=records[-1].epoch,
        accuracy=accuracy,
        stderr=stderr,
        cost=sum(record.clip_frames for record in paid),
        seconds=sum(record.seconds for record in paid),
        checkpoint=kept,
        note=note,
        spent=sum(record.clip_frames for record in records),
        repeat=edge.repeat,
        curve=tuple(record.accuracy for record in records),
    )


def _progress(edge: EdgeTraining, records: list[EpochRecord]) -> Progress:
    curve = tuple(record.accuracy for record in records)
    return Progress(edge.source, edge.state.name, curve, sum(record.clip_frames for record in records))


def _diverged(edge: EdgeTraining, records: list[EpochRecord], note: str) -> Outcome:
    return _outcome(edge, records, 0, "diverged", math.nan, math.nan, None, note)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
