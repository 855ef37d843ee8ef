"""Trains schedules beside each other: by hand, by halving, by a search. One trainer, the same data, equal clip-frames.

Every epoch and every finished training is on the disk before the next begins; a bench that was killed goes on there.
What decides (halving, the search) sees validation videos only; the accuracies of the table are of the test videos.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fastplan.benchmarks.cost import cpu_s
from fastplan.benchmarks.schedules import (
    CONSTANT,
    CONSTANT_AT_PRICE,
    CONSTANTS,
    COSINE_AT_PRICE,
    HALVING,
    KNEES,
    RATES,
    REPLAY,
    SEARCH,
    Asked,
    Ledger,
    Listener,
    Trained,
    file_name,
    words,
)
from fastplan.data.batch import ClipLoader, choose_decoder, default_threads
from fastplan.data.decoders import Decoder
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.splits import Splits, open_splits
from fastplan.errors import UserError
from fastplan.launch import Request as RunRequest
from fastplan.launch import open_run, save_run
from fastplan.ops import set_kernels
from fastplan.planner.arrivals import Outcome
from fastplan.planner.comparators import constant, rescaled, step
from fastplan.planner.curve import KneeFit, Stop
from fastplan.planner.halving import best, rungs
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Plan
from fastplan.planner.states import State
from fastplan.rundir import RunDir
from fastplan.runner import Runner
from fastplan.train.edge import (
    EdgeTrainer,
    EdgeTraining,
    Equipment,
    Request,
    fingerprint,
    initial_network,
    training_of_leg,
)
from fastplan.train.precision import Precision, choose_device
from fastplan.train.store import Store
from fastplan.train.trainer import Trainer


def train_all(asked: Asked, folder: Path, listener: Listener) -> list[Trained]:
    """Train everything, seed after seed; the plan that is replayed was found under the next one.

    folder: of this bench alone; what it holds already is not trained again.
    """
    plans: dict[int, Plan | None] = {}
    prices: dict[int, int] = {}
    found: list[Trained] = []

    def finish(trained: Trained) -> None:
        found.append(trained)
        listener.end(trained)

    for seed in range(asked.seeds):
        source = (seed + 1) % asked.seeds
        needs = {seed if asked.wanted(name) else None for name in (SEARCH, CONSTANT_AT_PRICE, COSINE_AT_PRICE)}
        needs |= {source if asked.wanted(REPLAY) else None}
        for needed in sorted(number for number in needs - set(plans) if number is not None):
            with _Seed(asked, needed, folder / f"seed{needed}", listener) as bench:
                trained, plans[needed] = bench.search()
                prices[needed] = trained.clip_frames
                finish(trained)
        with _Seed(asked, seed, folder / f"seed{seed}", listener) as bench:
            for name, plan in asked.constants(prices.get(seed)).items():
                finish(bench.train(name, plan, files=CONSTANT))
            for name, plan in asked.schedules.items():
                if name not in CONSTANTS and asked.wanted(name):
                    finish(bench.train(name, plan))
            if asked.wanted(COSINE_AT_PRICE):
                finish(bench.train(COSINE_AT_PRICE, asked.cosine(prices[seed])))
            if asked.wanted(REPLAY) and (plan := plans[source]) is not None:
                finish(bench.train(REPLAY, rescaled(plan, asked.spend), files=f"replay of seed {source}"))
            if asked.wanted(HALVING):
                finish(bench.halve())
            if asked.wanted(KNEES):
                finish(bench.knees())
    return found


class _Seed:
    """Everything of one seed. Data and network are opened when the first training needs them."""

    def __init__(self, asked: Asked, seed: int, folder: Path, listener: Listener) -> None:
        self._asked, self._seed, self._folder, self._listener = asked, seed, folder, listener
        folder.mkdir(parents=True, exist_ok=True)
        self._config = asked.task.config.model_copy(update={"seed": seed})
        self._device = choose_device(self._config.device)[0]
        self._ledger = Ledger(folder / "epochs.jsonl")
        self._store = Store(str((folder / "checkpoints").absolute()))
        self._lost = LostClips(self._config.data.max_bad_fraction, on_lost=self._note_lost)
        self._open: list[Any] = []

    def __enter__(self) -> "_Seed":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open:
            opened.close()

    def train(self, name: str, plan: Plan, *, files: str | None = None) -> Trained:
        """Train the legs of a plan for exactly its epochs. files: a name shared with a plan that is its beginning."""
        root = file_name(files or name)

        def work() -> Trained:
            parent, weights = None, None
            for number, leg in enumerate(plan.legs):
                edge = training_of_leg(plan, number, parent, root=root)
                if self._go_on(edge, leg.epochs) is None:
                    return self._trained(name, root, None, words(plan), drawn=True)
                parent = self._store.weights_name(edge.key, leg.epochs)
            weights = self._store.load(parent, self._device) if parent else None
            return self._trained(name, root, weights, words(plan), drawn=True)

        return self._once(name if files in (None, name) else f"{name}, {files}", name, work)

    def halve(self) -> Trained:
        """Successive halving over constant schedules, at the price of one."""
        target = self._asked.target

        def work() -> Trained:
            root = file_name(HALVING)
            plans = [constant(replace(target, lr=target.lr * f), self._asked.spend) for f in RATES]
            alive = list(range(len(RATES)))
            accuracies: list[float] = []
            for rung in rungs(len(RATES), self._asked.halved):
                if accuracies:
                    alive = [alive[i] for i in best(accuracies, rung.survivors)]
                edges = [training_of_leg(plans[i], 0, None, root=f"{root}>{RATES[i]:g}") for i in alive]
                reached = [self._go_on(edge, rung.epochs) for edge in edges]
                accuracies = [math.nan if accuracy is None else accuracy for accuracy in reached]
            (edge,) = edges
            says = f"{len(RATES)} rates, lr {edge.state.lr:g} went on to {rung.epochs} epochs"
            if math.isnan(accuracies[0]):
                return self._trained(HALVING, root, None, says)
            weights = self._store.load(self._store.weights_name(edge.key, rung.epochs), self._device)
            return self._trained(HALVING, root, weights, says)

        return self._once(HALVING, HALVING, work)

    def search(self) -> tuple[Trained, Plan | None]:
        """A search of the graph, and the plan that it found; None where everything diverged."""
        file = self._folder / "search" / "plan.yaml"
        trained = self._once(SEARCH, SEARCH, lambda: self._run(SEARCH, "search", self._asked.request))
        return trained, Plan.load(file) if file.exists() else None

    def knees(self) -> Trained:
        """The step schedule without its numbers: each state ends at its knee, no budget is given."""
        sections = {"data", "network", "optim", "train", "plan", "test"}
        settings = self._asked.task.config.model_dump(mode="json", include=sections)
        plan = replace(step(self._asked.target, self._asked.spend), config=settings)
        file = self._folder / "knees.yaml"
        file.write_text(plan.to_yaml(), encoding="utf-8")
        request = replace(self._asked.request, state_graph=None, plan=str(file))
        return self._once(KNEES, KNEES, lambda: self._run(KNEES, "knees", request))

    def _run(self, name: str, folder: str, request: RunRequest) -> Trained:
        """A run as `fastplan train` makes it, in a folder of its own."""
        path, root = self._folder / folder, file_name(name)
        asked = replace(request, seed=self._seed)
        rundir, task, resumed = open_run(asked, path, resume=RunDir.has_run(path))
        watcher = _RunWatcher(self._ledger, root, self._listener)
        try:
            runner = Runner(rundir, task.config, states=task.states, target=task.target, watcher=watcher)
            with runner:
                if not resumed:
                    save_run(rundir, task, runner.config)
                if task.graph is not None:
                    result = runner.search(task.graph)
                    plan, final = result.plan, result.path.outcome if result.path else None
                else:
                    assert task.plan is not None
                    plan, final = runner.replay(task.plan), list(runner.outcomes.values())[-1]
                for key in runner.journal.edges():
                    for record in runner.journal.epochs(key):
                        self._ledger.add(f"{root}>{key}", record, 0.0)  # what a kill kept from the watcher
            store = Store(str(rundir.checkpoints_root.absolute()))
            weights = store.load(final.checkpoint, self._device) if final and final.checkpoint else None
        finally:
            rundir.close()
        return self._trained(name, root, weights, words(plan) if plan else "everything diverged")

    def _once(self, file: str, name: str, work: Callable[[], Trained]) -> Trained:
        """The result in the seed's folder, made where it is missing."""
        path = self._folder / f"{file_name(file)}.json"
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            return Trained(**{**content, "curve": tuple(map(tuple, content["curve"]))})
        self._listener.begin(self._seed, name)
        trained = work()
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(trained), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return trained

    def _go_on(self, edge: EdgeTraining, epochs: int) -> float | None:
        """Train an edge up to so many epochs; its last validation accuracy, None where it diverged."""
        for epoch in range(self._ledger.last(edge.key) + 1, epochs + 1):
            if epoch > 1 and self._ledger.rows[edge.key, epoch - 1]["accuracy"] is None:
                break
            trainer, begun = self._trainer, cpu_s()
            record = trainer.answer(Request(edge, epoch)).record
            self._ledger.add(edge.key, record, cpu_s() - begun)
            for name in (self._store.weights_name, self._store.optimizer_name):
                self._store.delete(name(edge.key, epoch - 1))
            self._listener.work(record.clip_frames)
        return self._ledger.rows[edge.key, min(epochs, self._ledger.last(edge.key))]["accuracy"]

    def _trained(
        self, name: str, root: str, weights: dict[str, Any] | None, plan: str, *, drawn: bool = False
    ) -> Trained:
        rows = self._ledger.of(f"{root}>")
        curve, frames = [], 0
        for row in rows:
            frames += row["clip_frames"]
            curve.append((frames, row["accuracy"]))
        chance = 1 / len(self._splits.train.classes)
        averaged, raw, raw_bn = (chance,) * 3 if weights is None else self._test(weights)
        return Trained(
            name=name,
            seed=self._seed,
            clip_frames=frames,
            epochs=sum(row["epoch"] > 0 for row in rows),
            cpu_s=sum(row["cpu_s"] for row in rows),
            averaged=averaged,
            raw=raw,
            raw_bn=raw_bn,
            curve=tuple(curve) if drawn else (),
            plan=plan,
            diverged=weights is None,
        )

    def _test(self, weights: dict[str, Any]) -> Iterator[float]:
        """Top-1 on the test videos: averaged weights, the others, the others with BatchNorm estimated."""
        averaging, plain = self._testers
        unaveraged = {**weights, "average": weights["network"]}
        for trainer, content in ((averaging, weights), (plain, weights), (averaging, unaveraged)):
            trainer.enter(self._asked.target, content)
            yield trainer.validate(views=self._config.test.clips).video_top1

    @cached_property
    def _splits(self) -> Splits:
        data = self._config.data
        threads = data.threads or default_threads()
        splits = open_splits(
            data,
            holdout=self._config.plan.holdout,
            seed=self._seed,
            threads=threads,
            progress=self._listener.progress,
        )
        if splits.test is None:
            raise UserError("there are no test videos: set data.test or data.holdout_test")
        return splits

    @cached_property
    def _trainer(self) -> EdgeTrainer:
        equipment = Equipment(
            self._config,
            fingerprint(self._splits),
            self._asked.task.target,
            self._asked.largest_batch,
            self._decoder,
            self._store,
        )
        threads = self._config.data.threads or default_threads()
        trainer = EdgeTrainer(
            equipment, self._splits, self._device, threads=threads, lost=self._lost, on_step=lambda step, steps: None
        )
        self._open.append(trainer)
        return trainer

    @cached_property
    def _decoder(self) -> Decoder:
        return choose_decoder(self._splits.train, self._device, self._config.data.decoder)[0]

    @cached_property
    def _testers(self) -> tuple[Trainer, Trainer]:
        """Two trainers whose validation is the test: with averaged weights, and without."""
        config, splits = self._config, self._splits
        assert splits.test is not None
        loader = ClipLoader(
            splits.train,
            config.data.augment,
            max_batch=self._asked.task.target.batch_size,
            threads=config.data.threads or default_threads(),
            decoder=self._decoder,
            device=self._device,
            keep_bytes=config.data.keep_mb << 20,
            timeout_s=config.data.decode_timeout_s,
            lost=self._lost,
            drop_nonref=config.data.drop_nonref,
        )
        self._open.append(loader)

        def tester(average_epochs: float) -> Trainer:
            network = initial_network(config, splits.train.classes)[0].to(self._device)
            set_kernels(network, config.kernels)
            of_test = config.model_copy(
                update={"train": config.train.model_copy(update={"average_epochs": average_epochs})}
            )
            precision = Precision(config.train.precision, self._device, "as resolved")
            return Trainer(
                network,
                of_test,
                train_loader=loader,
                val_loader=loader.beside(splits.test),
                target=self._asked.task.target,
                precision=precision,
            )

        return tester(config.train.average_epochs), tester(0)

    def _note_lost(self, clip: LostClip) -> None:
        self._listener.note(f"cannot read {clip.path}: {clip.reason}")


class _RunWatcher:
    """Writes the price of a run's epochs down while it goes on."""

    def __init__(self, ledger: Ledger, root: str, listener: Listener) -> None:
        self._ledger, self._root, self._listener = ledger, root, listener
        self._before = cpu_s()

    def progress(self, title: str, total: int) -> Callable[[], None]:
        return self._listener.progress(title, total)

    def lost(self, clip: LostClip) -> None:
        self._listener.note(f"cannot read {clip.path}: {clip.reason}")

    def begin_edge(self, key: str, source: str, state: State, done: int, most: int) -> None:
        self._before = cpu_s()

    def step(self, key: str, step: int, steps: int) -> None:
        pass

    def epoch(self, key: str, record: EpochRecord, fit: KneeFit, stop: Stop) -> None:
        now = cpu_s()
        if self._ledger.add(f"{self._root}>{key}", record, now - self._before):
            self._listener.work(record.clip_frames)
        self._before = now

    def pause_edge(self, key: str) -> None:
        pass

    def end_edge(self, key: str, outcome: Outcome) -> None:
        score = EpochRecord(0, outcome.accuracy, math.nan, 0, 0.0, 0.0)
        self._ledger.add(f"{self._root}>{key}>score", score, cpu_s() - self._before)

    def note(self, text: str) -> None:
        self._listener.note(text)
