"""Joins planner, workers and run folder: searches a graph, or replays a plan.

Every finished epoch is in the journal before the next one of its edge begins, its checkpoint on the disk before that;
a run that was killed goes on from there. Nothing here asks what device it runs on, or how many.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fastplan.config import RunConfig, replay_settings
from fastplan.data.batch import choose_decoder, default_threads
from fastplan.data.crashes import Crashes
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.splits import open_splits
from fastplan.driving import Job, drive
from fastplan.errors import UserError
from fastplan.exploring import Explorer
from fastplan.models.networks import network_spec
from fastplan.ops import choose_kernels
from fastplan.planner.arrivals import Exploration, Outcome, Progress, pick
from fastplan.planner.curve import most_in_play
from fastplan.planner.frontier import pick_highest
from fastplan.planner.plans import Leg, Plan, plan_of
from fastplan.planner.states import START, State, StateGraph, check_clip_lengths
from fastplan.planner.stepwise import SearchResult, SearchRules, Stepwise
from fastplan.rundir import RunDir
from fastplan.train import checkpoint
from fastplan.train.disk import disk_use
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.edge import EdgeTraining, Equipment, fingerprint, initial_network, training_of_leg
from fastplan.train.precision import choose_device, choose_precision
from fastplan.train.store import Store
from fastplan.train.trainer import regimes_of
from fastplan.watcher import Watcher
from fastplan.workers.choice import WorkerChoice, open_workers
from fastplan.workers.ranks import check_shares


class Runner:
    """One run: its data, workers and journal, opened once. Use as a context manager.

    The run folder is made when the data was read and everything fits.
    """

    def __init__(
        self,
        rundir: RunDir,
        config: RunConfig,
        *,
        states: list[State],
        target: State,
        watcher: Watcher,
        workers: WorkerChoice | None = None,
        most_epochs: int | None = None,
        most_paused: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        """most_epochs: of an edge, for the disk that it takes (`Task.most_epochs`); None is `plan.max_epochs`.

        most_paused: edges at a time, for the same (`Task.most_paused`). ranks: of which this process is the first.
        """
        self.rundir = rundir
        self.watcher = watcher
        self.ranks = ranks
        self.device, self.device_why = choose_device(config.device, ranks)
        self.choice = (workers or WorkerChoice()).checked(self.device, ranks)
        check_shares([*states, target], ranks)
        threads = config.data.threads or default_threads()
        self.splits = open_splits(
            config.data, holdout=config.plan.holdout, seed=config.seed, threads=threads, progress=watcher.progress
        )
        self._check_states([*states, target], config)
        for state in states:
            regimes_of(state, config.data.clips_per_epoch or len(self.splits.train))
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        network, self.pretrained = initial_network(config, self.splits.train.classes)
        if self.pretrained and rundir.pretrained_sha256() not in (None, self.pretrained.sha256):
            raise UserError(f"{self.pretrained.file} is not the file that this run began with; put that one back")
        self.kernels = choose_kernels(config.kernels, self.device)
        self.parameters = sum(p.numel() for p in network.parameters())
        self.disk = disk_use(
            network,
            epochs=most_in_play(most_epochs or config.plan.max_epochs, rule=config.plan.knee),
            states=len(states),
            workers=self.choice.count or 1,
            paused=most_paused,
        )
        self.precision = choose_precision(config.train.precision, self.device)
        del network
        resolved = {"precision": self.precision.name}
        self.config = config.model_copy(
            update={"device": self.device.type, "train": config.train.model_copy(update=resolved)}
        )
        self.decoder, self.decoder_why = choose_decoder(self.splits.train, self.device, config.data.decoder)
        self.lost = LostClips(config.data.max_bad_fraction, before=rundir.load_lost(), on_lost=self._note_lost)
        for split in (self.splits.train, self.splits.val):
            self.lost.check(split)
        self._store = Store(config.checkpoints or str(rundir.checkpoints_root.absolute()))
        if config.checkpoints:
            self._store.try_out()
        rundir.claim()
        self.journal = rundir.open_journal()
        try:
            self.crashes = Crashes(rundir.crashes_dir)
        except OSError as error:
            raise UserError(f"cannot write {rundir.crashes_dir}: {error.strerror}; see to it, then --resume") from None
        self.lost.watch(self.crashes)
        self.disk_free = self._store.free_bytes()
        self._explorer = Explorer(
            rundir,
            self.journal,
            self._store,
            self.config,
            watcher,
            chance=None if self.pretrained else 1 / len(self.splits.train.classes),
            videos=len(self.splits.val),
            clips=config.data.clips_per_epoch or len(self.splits.train),
        )
        largest = max(state.largest_batch for state in [*states, target])
        self._equipment = Equipment(
            self.config,
            fingerprint(self.splits),
            target,
            largest,
            self.decoder,
            self._store,
            tuple(self.lost.clips),
            rundir.crashes_dir.absolute(),
        )
        self._kept: str | None = None
        self.outcomes: dict[str, Outcome] = {}

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self._explorer.close()
        self.journal.close()
        self.crashes.close()

    def search(self, graph: StateGraph) -> SearchResult:
        """Search the graph, or finish a search that was begun.

        Whenever it ends, the best plan so far, its network and the frontier of plans are in the run folder.
        """
        stepwise, begun = Stepwise(graph, search_rules(self.config)), set[str]()
        caps = graph.caps(self.config.plan.max_epochs)

        def tell(exploration: Exploration, told: Outcome | Progress | None) -> None:
            if told is None:
                return
            settled = stepwise.tell(exploration, told)
            if isinstance(told, Progress):
                begun.remove(exploration.key)
            else:
                self.outcomes[exploration.key] = told
                self._save_best(stepwise.result(), graph)
            give_up()
            if settled or exploration.repeat:
                self._delete_unneeded(stepwise)

        def give_up() -> None:
            for exploration, why in stepwise.given_up:
                if exploration.key not in self.outcomes:
                    self.outcomes[exploration.key] = self._explorer.give_up(_training_of(exploration), why)

        def tell_what_is_known() -> None:
            while known := next(((e, told) for e in stepwise.ask() if (told := journalled(e)) is not None), None):
                if isinstance(known[1], Outcome):
                    self.outcomes[known[0].key] = known[1]
                stepwise.tell(*known)
            give_up()

        def journalled(exploration: Exploration) -> Outcome | Progress | None:
            return self._explorer.known(_training_of(exploration), exploration.until)

        def next_job() -> Job | None:
            tell_what_is_known()
            for exploration in stepwise.ask():
                edge = _training_of(exploration)
                if edge.key not in begun and not _is_cut(exploration) and self._explorer.may_begin(edge):
                    begun.add(edge.key)
                    rival, longest = partial(stepwise.best_rival, exploration), caps[edge.source, edge.state.name]
                    until = exploration.until
                    explore = partial(self._explorer.explore, edge, rival=rival, longest=longest, until=until)
                    return Job(edge.key, explore, partial(tell, exploration))
            return None

        self._drive(next_job)
        order = graph.edges_in_order()
        in_order = sorted(self.outcomes.items(), key=lambda item: (order.index((item[1].source, item[1].target)), item))
        self.outcomes = dict(in_order)
        result = stepwise.result()
        self._save_best(result, graph)
        self._delete_unneeded(stepwise)
        return replace(result, plan=self._described(result, graph)) if result.plan is not None else result

    def replay(self, plan: Plan) -> Plan:
        """Train the legs of a plan one after another; returns the plan as it was trained."""
        path: list[Outcome] = []
        begun: set[str] = set()

        def next_job() -> Job | None:
            if len(begun) > len(path) or len(path) == len(plan.legs):
                return None  # the leg before is under way, or it was the last
            edge = training_of_leg(plan, len(path), path[-1].checkpoint if path else None)
            leg = plan.legs[len(path)]
            if (outcome := self.journal.outcome(edge.key)) is None:
                begun.add(edge.key)
                keep_last()
                return Job(edge.key, partial(self._explorer.train_leg, edge, leg), end)
            begun.add(edge.key)
            end(outcome)
            return next_job()

        def end(outcome: Outcome | Progress | None) -> None:
            assert isinstance(outcome, Outcome)
            if outcome.status == "diverged":
                leg = plan.legs[len(path)]
                raise UserError(f"leg {len(path) + 1} ({leg.state.name}) diverged: {outcome.note}; lower its lr")
            path.append(outcome)
            self.outcomes[">".join((START, *(o.target for o in path)))] = outcome

        def keep_last() -> None:  # not in `end`: of legs that the journal knows, the last one is gone on from
            last = path[-1].checkpoint if path else None
            self._store.delete_all_but({last} if last else set(), edges=self._under_way())

        self._drive(next_job)
        keep_last()
        final = path[-1]
        self._keep_network(final.checkpoint)
        legs = tuple(
            Leg(leg.state, outcome.epochs, outcome.status, leg.schedule, min(leg.warmup, outcome.epochs - 1))
            for leg, outcome in zip(plan.legs, path, strict=True)
        )
        cost, seconds = sum(o.cost for o in path), sum(o.seconds for o in path)
        trained = Plan(legs, final.accuracy, final.stderr, cost, seconds, provenance=plan.provenance)
        trained = self._with_provenance(trained, replayed=True)
        self.rundir.save_plan(trained)
        return trained

    def _drive(self, next_job: Callable[[], Job | None]) -> None:
        """Open the workers where there is anything to do for them."""
        first = next_job()
        if first is None:
            return
        waiting = [first]
        threads = self.config.data.threads or default_threads()
        workers = open_workers(
            self.choice,
            self._equipment,
            self.splits,
            self.device,
            threads=threads,
            lost=self.lost,
            watcher=self.watcher,
            ranks=self.ranks,
        )
        try:
            drive(workers, lambda: waiting.pop() if waiting else next_job(), self.watcher, self.lost)
        finally:
            workers.close()

    def _save_best(self, result: SearchResult, graph: StateGraph) -> None:
        """Save the best plan so far and its network, and the frontier."""
        if result.plan is None or result.path is None:
            return
        self.rundir.save_plan(self._described(result, graph))
        if result.frontier is not None and result.frontier.points:
            plans = [plan_of(graph, point) for point in result.frontier.points]
            self.rundir.save_frontier([self._with_provenance(plan, graph=graph.name) for plan in plans])
        self._keep_network(result.path.outcome.checkpoint)

    def _delete_unneeded(self, stepwise: Stepwise) -> None:
        """Delete checkpoints that nothing can start from any more and that are not the best plan's."""
        result = stepwise.result()
        needed = {arrival.outcome.checkpoint for arrival in stepwise.startable}
        if result.path is not None:
            needed.add(result.path.outcome.checkpoint)
        if not result.complete:  # what an earlier process has finished may still be asked for
            known = (self.journal.outcome(key) for key in self.journal.edges() if key not in self.outcomes)
            needed |= {outcome.checkpoint for outcome in known if outcome is not None}
        final = result.complete and not any(outcome.status == "budget" for outcome in self.outcomes.values())
        open_edges = () if final else self._under_way()  # a larger budget may leave edges that were begun
        self._store.delete_all_but({name for name in needed if name}, edges=open_edges)

    def _under_way(self) -> list[str]:
        return [key for key in self.journal.edges() if self.journal.outcome(key) is None]

    def _keep_network(self, name: str | None) -> None:
        """Save the network of a checkpoint where others find it: the averaged weights alone."""
        if name is not None and name == self._kept:
            return
        if name is None:
            weights = initial_network(self.config, self.splits.train.classes)[0].state_dict()
        else:
            content = self._store.load(name, torch.device("cpu"))
            weights = content["average" if self.config.train.average_epochs else "network"]
        classes = list(self.splits.train.classes)
        checkpoint.save(
            self.rundir.network_file, {"name": self.config.network.name, "classes": classes, "weights": weights}
        )
        self._kept = name

    def _described(self, result: SearchResult, graph: StateGraph) -> Plan:
        assert result.plan is not None
        facts = {} if result.complete else {"unfinished": result.note}
        return self._with_provenance(result.plan, graph=graph.name, **facts)

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

    def _note_lost(self, clip: LostClip) -> None:
        self.rundir.append_lost(clip)
        self.watcher.lost(clip)

    def _check_states(self, states: list[State], config: RunConfig) -> None:
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


def search_rules(config: RunConfig) -> SearchRules:
    """The rules of the planner that a configuration asks for; the budget is kept by whoever trains."""
    plan = config.plan
    assert not isinstance(plan.first_path, str), "the launcher has made states of a plan's name"
    return SearchRules(
        width=plan.width,
        choose=pick_highest if plan.pick == "highest" else pick,
        skip_dominated=plan.skip_dominated,
        first_path=tuple(plan.first_path or ()),
        repeats=plan.repeats,
        race=plan.race,
        race_start=plan.scratch_margin if plan.race_start else None,
        first_rung=plan.first_rung,
        rung_step=plan.rung_step,
    )


def _is_cut(exploration: Exploration) -> bool:
    """Whether it would start from an edge that the budget cut short, with which a larger one goes on."""
    return exploration.arrival is not None and any(o.status == "budget" for o in exploration.arrival.path)


def _training_of(exploration: Exploration) -> EdgeTraining:
    parent = exploration.arrival.outcome.checkpoint if exploration.arrival else None
    return EdgeTraining(exploration.key, exploration.source, exploration.state, parent, repeat=exploration.repeat)
