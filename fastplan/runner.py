"""Joins planner, trainer and run folder: makes the `measure` that `search` calls, and replays plans.

Every finished epoch is in the journal before the next one begins, its checkpoint on the disk before that; a run that
was killed goes on from there. Nothing here asks what device it runs on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from fastplan.config import RunConfig, replay_settings
from fastplan.data.batch import ClipLoader, choose_decoder, default_threads
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.splits import open_splits
from fastplan.errors import UserError
from fastplan.models.interface import VideoNetwork
from fastplan.models.networks import build_network, network_spec
from fastplan.models.pretrained import Pretrained, load_pretrained
from fastplan.ops import set_kernels
from fastplan.planner.arrivals import Outcome, Reached
from fastplan.planner.curve import KneeFit, Stop, choose_epoch, fit_knee, should_stop
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Leg, Plan
from fastplan.planner.search import search
from fastplan.planner.states import START, State, StateGraph, check_clip_lengths
from fastplan.planner.stepwise import SearchResult
from fastplan.rundir import RunDir
from fastplan.train import checkpoint
from fastplan.train.precision import choose_device, choose_precision
from fastplan.train.trainer import Trainer, cosine_with_warmup
from fastplan.watcher import Watcher


@dataclass(frozen=True)
class _EdgeRules:
    """When an edge ends: `epochs` exactly, or `attempt_epochs` past its knee and at most `max_epochs`."""

    attempt_epochs: int
    max_epochs: int
    exact: bool = False


class Runner:
    """One run: its data, network and journal, opened once. Use as a context manager."""

    def __init__(self, rundir: RunDir, config: RunConfig, *, states: list[State], target: State, watcher: Watcher):
        threads = config.data.threads or default_threads()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.rundir = rundir
        self.watcher = watcher
        self.device, self.device_why = choose_device(config.device)
        self.splits = open_splits(
            config.data, holdout=config.plan.holdout, seed=config.seed, threads=threads, progress=watcher.progress
        )
        self._check_lengths([*states, target], config)
        torch.manual_seed(config.seed)
        network = build_network(config.network.name, len(self.splits.train.classes), dropout=config.network.dropout)
        self.pretrained = self._load_pretrained(network, config)
        network.to(self.device)
        self.kernels = set_kernels(network, config.kernels)
        self.parameters = sum(p.numel() for p in network.parameters())
        self._initial = {name: value.clone() for name, value in network.state_dict().items()}
        self.precision = choose_precision(config.train.precision, network, target.clip, target.batch_size, self.device)
        self.config = config.model_copy(
            update={
                "device": self.device.type,
                "train": config.train.model_copy(update={"precision": self.precision.name}),
            }
        )
        self.decoder, self.decoder_why = choose_decoder(self.splits.train, self.device)
        largest = max(state.batch_size for state in [*states, target])
        self.lost = LostClips(config.data.max_bad_fraction, before=rundir.load_lost(), on_lost=self._note_lost)
        for split in (self.splits.train, self.splits.val):
            self.lost.check(split)
        self.loader = ClipLoader(
            self.splits.train,
            self.config.data.augment,
            max_batch=largest,
            threads=threads,
            decoder=self.decoder,
            device=self.device,
            keep_bytes=self.config.data.keep_mb << 20,
            timeout_s=self.config.data.decode_timeout_s,
            lost=self.lost,
        )
        self._target = target
        self._trainer = Trainer(
            network,
            self.config,
            train_loader=self.loader,
            val_loader=self.loader.beside(self.splits.val),
            target=target,
            precision=self.precision,
            on_step=watcher.step,
        )
        self.journal = rundir.open_journal()
        self._scalars = SummaryWriter(str(rundir.tensorboard_dir))

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self._scalars.close()
        self.journal.close()
        self.loader.close()

    def search(self, graph: StateGraph) -> SearchResult:
        """Search the graph, or finish a search that was begun, and keep the sink's network."""
        rules = _EdgeRules(self.config.plan.attempt_epochs, self.config.plan.max_epochs)

        def measure(source: str, state: State, before: Reached | None) -> Outcome:
            done = self.journal.outcome(source, state.name)
            if done is None:
                parent = before.outcome.checkpoint if before else None
                done = self._explore(source, state, parent, rules)
            return done

        def settled(reached: Mapping[str, Reached], unsettled: set[str]) -> None:
            open_edges = [edge for edge in self.journal.edges() if edge[1] in unsettled]
            ended = [self.journal.outcome(*edge) for edge in open_edges]
            needed = [outcome.checkpoint for outcome in ended if outcome is not None]
            needed += [
                cell.outcome.checkpoint
                for name, cell in reached.items()
                if name == graph.sink or unsettled & set(graph.successors(name))
            ]
            running = [edge for edge, outcome in zip(open_edges, ended, strict=True) if outcome is None]
            self.rundir.delete_checkpoints(keep={name for name in needed if name}, keep_edges=running)

        result = search(graph, measure, on_settled=settled)
        if result.plan is not None:
            plan = self._with_provenance(result.plan, graph=graph.name)
            result = replace(result, plan=plan)
            self._keep_network(result.reached[graph.sink].outcome.checkpoint)
            self.rundir.save_plan(plan)
        return result

    def replay(self, plan: Plan) -> Plan:
        """Train the legs of a plan one after another; returns the plan as it was trained."""
        parent: str | None = None
        source, path = START, []
        for number, leg in enumerate(plan.legs, 1):
            state = State(f"leg{number}-{leg.state.name}", *_settings(leg.state))
            outcome = self.journal.outcome(source, state.name)
            if outcome is None:
                outcome = self._train_leg(source, state, leg, parent)
                self.rundir.delete_checkpoints(keep={outcome.checkpoint} if outcome.checkpoint else set())
            if outcome.status == "diverged":
                raise UserError(f"leg {number} ({leg.state.name}) diverged: {outcome.note}; lower its lr")
            parent, source = outcome.checkpoint, state.name
            path.append(outcome)
        self._keep_network(parent)
        final = path[-1]
        legs = tuple(
            Leg(leg.state, outcome.epochs, outcome.status, leg.schedule, leg.warmup)
            for leg, outcome in zip(plan.legs, path, strict=True)
        )
        cost, seconds = sum(o.cost for o in path), sum(o.seconds for o in path)
        trained = Plan(legs, final.accuracy, final.stderr, cost, seconds, provenance=plan.provenance)
        trained = self._with_provenance(trained, replayed=True)
        self.rundir.save_plan(trained)
        return trained

    def _explore(self, source: str, state: State, parent: str | None, rules: _EdgeRules) -> Outcome:
        """Train one edge to its end and keep the checkpoint near its knee."""
        plan = self.config.plan
        stop, fit = self._train_edge(source, state, parent, rules)
        records = self.journal.epochs(source, state.name)
        accuracies = [record.accuracy for record in records]
        if stop is Stop.DIVERGED:
            outcome = self._outcome(source, state, records, 0, stop, math.nan, math.nan, None, fit.explanation)
        else:
            epoch = choose_epoch(accuracies, fit, rule=plan.knee, from_scratch=parent is None)
            kept = self.rundir.name_of(self.rundir.checkpoint_file(source, state.name, epoch)) if epoch else parent
            self._load(kept)
            score = self._trainer.validate(views=plan.score_clips)
            accuracy = score.video_top1 if plan.score == "measured" or fit.knee is None else fit.accuracy
            outcome = self._outcome(source, state, records, epoch, stop, accuracy, score.stderr, kept, fit.explanation)
        self._finish_edge(outcome)
        return outcome

    def _train_leg(self, source: str, state: State, leg: Leg, parent: str | None) -> Outcome:
        """Train one leg of a plan; its last weights are kept, nothing is rolled back."""
        exact = self.config.exact or leg.schedule != "constant"
        rules = _EdgeRules(self.config.plan.replay_attempt_epochs, leg.epochs if exact else 2 * leg.epochs, exact)
        stop, fit = self._train_edge(source, state, parent, rules, leg)
        records = self.journal.epochs(source, state.name)
        if stop is Stop.DIVERGED:
            outcome = self._outcome(source, state, records, 0, stop, math.nan, math.nan, None, fit.explanation)
        else:
            epoch = records[-1].epoch
            kept = self.rundir.name_of(self.rundir.checkpoint_file(source, state.name, epoch))
            self._load(kept)
            score = self._trainer.validate(views=self.config.plan.score_clips)
            note = f"{leg.epochs} epochs as planned" if exact else f"planned {leg.epochs} epochs"
            outcome = self._outcome(source, state, records, epoch, stop, score.video_top1, score.stderr, kept, note)
        self._finish_edge(outcome)
        return outcome

    def _train_edge(
        self, source: str, state: State, parent: str | None, rules: _EdgeRules, leg: Leg | None = None
    ) -> tuple[Stop, KneeFit]:
        """Train epochs, from the last one in the journal on, until the rules end the edge."""
        plan, stream = self.config.plan, f"{source}->{state.name}"
        records = self.journal.epochs(source, state.name)
        self.watcher.begin_edge(source, state, max(len(records) - 1, 0), rules.max_epochs)
        self._resume_edge(source, state, parent, records)
        if not records:
            score = self._trainer.validate(views=plan.val_clips)
            records = [EpochRecord(0, score.video_top1, math.nan, 0, 0.0, 0.0)]
            self.journal.record_epoch(source, state.name, records[0])
        while True:
            accuracies = [record.accuracy for record in records]
            fit = fit_knee(
                accuracies,
                rule=plan.knee,
                tolerance=plan.tolerance,
                chance=1 / len(self.splits.train.classes) if parent is None and self.pretrained is None else None,
                scratch_margin=plan.scratch_margin,
            )
            epoch = records[-1].epoch
            self.journal.record_fit(source, state.name, epoch, fit)
            if rules.exact and fit.status != "nonfinite":
                stop = Stop.PLANNED if epoch >= rules.max_epochs else Stop.TRAIN
            else:
                stop = should_stop(accuracies, fit, attempt_epochs=rules.attempt_epochs, max_epochs=rules.max_epochs)
            self.watcher.epoch(records[-1], fit, stop)
            if stop is not Stop.TRAIN:
                return stop, fit
            schedule = None
            if leg is not None and leg.schedule == "cosine":
                schedule = cosine_with_warmup(epoch + 1, leg.epochs, leg.warmup)
            records.append(self._train_epoch(source, state, stream, epoch + 1, schedule))

    def _train_epoch(
        self, source: str, state: State, stream: str, epoch: int, schedule: Callable[[float], float] | None
    ) -> EpochRecord:
        stats = self._trainer.train_epoch(stream, epoch, lr_scale=schedule)
        accuracy = (
            self._trainer.validate(views=self.config.plan.val_clips).video_top1
            if math.isfinite(stats.loss)
            else math.nan
        )
        weights, optimizer = (
            self.rundir.checkpoint_file(source, state.name, epoch),
            self.rundir.optimizer_file(source, state.name, epoch),
        )
        checkpoint.save(weights, self._trainer.weights())
        checkpoint.save(optimizer, self._trainer.optimizer_state())
        record = EpochRecord(epoch, accuracy, stats.loss, stats.clip_frames, stats.seconds, stats.data_seconds)
        self.journal.record_epoch(source, state.name, record)
        self.rundir.optimizer_file(source, state.name, epoch - 1).unlink(missing_ok=True)
        self._scalars.add_scalar(f"{stream}/val_top1", accuracy, epoch)
        self._scalars.add_scalar(f"{stream}/train_loss", stats.loss, epoch)
        self._scalars.add_scalar(f"{stream}/clips_per_s", stats.clips / stats.seconds, epoch)
        self.rundir.log(
            "epoch",
            edge=stream,
            epoch=epoch,
            lr=state.lr,
            loss=_finite(stats.loss),
            top1=_finite(accuracy),
            grad_norm=_finite(stats.grad_norm),
            clips=stats.clips,
            clips_per_s=round(stats.clips / stats.seconds, 2),
            data_s=round(stats.data_seconds, 3),
            seconds=round(stats.seconds, 3),
        )
        return record

    def _resume_edge(self, source: str, state: State, parent: str | None, records: list[EpochRecord]) -> None:
        """Put the trainer where the last record left it: a fresh edge, or the weights and optimizer of an epoch."""
        epoch = records[-1].epoch if records else 0
        if epoch == 0:
            self._load(parent, state)
            return
        device = self.device
        self._trainer.enter(state, checkpoint.load(self.rundir.checkpoint_file(source, state.name, epoch), device))
        self._trainer.load_optimizer_state(
            checkpoint.load(self.rundir.optimizer_file(source, state.name, epoch), device)
        )

    def _load(self, name: str | None, state: State | None = None) -> None:
        """Enter a state with a checkpoint of this run, or with the initial weights."""
        if name is None:
            weights = {"network": self._initial, "average": self._initial, "updates": 0}
        else:
            weights = checkpoint.load(self.rundir.path / name, self.device)
        if state is None:
            self._trainer.load_weights(weights)
        else:
            self._trainer.enter(state, weights)

    def _outcome(
        self,
        source: str,
        state: State,
        records: list[EpochRecord],
        epoch: int,
        stop: Stop,
        accuracy: float,
        stderr: float,
        kept: str | None,
        note: str,
    ) -> Outcome:
        paid = records[1 : epoch + 1]
        return Outcome(
            source=source,
            target=state.name,
            status=stop.value,  # type: ignore[arg-type]
            epochs=epoch,
            trained=records[-1].epoch,
            accuracy=accuracy,
            stderr=stderr,
            cost=sum(record.clip_frames for record in paid),
            seconds=sum(record.seconds for record in paid),
            checkpoint=kept,
            note=note,
            spent=sum(record.clip_frames for record in records),
        )

    def _finish_edge(self, outcome: Outcome) -> None:
        self.journal.record_edge(outcome)
        self.rundir.optimizer_file(outcome.source, outcome.target, outcome.trained).unlink(missing_ok=True)
        for epoch in range(1, outcome.trained + 1):
            file = self.rundir.checkpoint_file(outcome.source, outcome.target, epoch)
            if self.rundir.name_of(file) != outcome.checkpoint:
                file.unlink(missing_ok=True)
        self.rundir.log("edge", edge=f"{outcome.source}->{outcome.target}", status=outcome.status,
                        epochs=outcome.epochs, trained=outcome.trained, top1=_finite(outcome.accuracy))  # fmt: skip
        self.watcher.end_edge(outcome)

    def _keep_network(self, name: str | None) -> None:
        self._load(name)
        checkpoint.save(
            self.rundir.network_file,
            {
                "name": self.config.network.name,
                "classes": list(self.splits.train.classes),
                "weights": self._trainer.weights()["average" if self.config.train.average_epochs else "network"],
            },
        )

    def _with_provenance(self, plan: Plan, **facts: Any) -> Plan:
        provenance = {
            **plan.provenance,
            **facts,
            "data": self.splits.origin,
            "data_fingerprint": self.splits.train.fingerprint(),
            "seed": self.config.seed,
            "init": self.pretrained.origin if self.pretrained else "random weights",
        }
        return replace(plan, config=replay_settings(self.config), provenance=provenance)

    def _load_pretrained(self, network: VideoNetwork, config: RunConfig) -> Pretrained | None:
        """Start from `network.pretrained`; a run that goes on must find the file that it began with."""
        if config.network.pretrained is None:
            return None
        file, classes = Path(config.network.pretrained), self.splits.train.classes
        loaded = load_pretrained(network, file, name=config.network.name, classes=classes)
        if self.rundir.pretrained_sha256() not in (None, loaded.sha256):
            raise UserError(f"{file} is not the file that this run began with; put that one back to go on")
        return loaded

    def _note_lost(self, clip: LostClip) -> None:
        self.rundir.append_lost(clip)
        self.watcher.lost(clip)

    def _check_lengths(self, states: list[State], config: RunConfig) -> None:
        """Fail before training, not in the middle of it, where clips and data or network do not fit."""
        name = config.network.name
        spec = network_spec(name)
        check_clip_lengths(states, multiple=spec.multiple, least=spec.least, network=name)
        if config.data.short != "error":
            return
        videos = [*self.splits.train.videos, *self.splits.val.videos, *(self.splits.test or self.splits.val).videos]
        for state in states:
            if short := sorted({(video.frames, video.path) for video in videos if video.frames < state.clip.span}):
                frames, path = short[0]
                raise UserError(
                    f"state '{state.name}': a clip spans {state.clip.span} frames but {path} has {frames} "
                    f"({len(short)} videos are too short); lower stride or frames, or set data.short=loop"
                )


def _settings(state: State) -> tuple[Any, ...]:
    return state.clip, state.lr, state.batch_size, state.accumulate, state.freeze_bn


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
