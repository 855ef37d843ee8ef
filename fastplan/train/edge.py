"""A worker's side of a run: single epochs of any edge, and scores of its checkpoints, made from files alone.

A request says all there is to know. So it does not matter which worker answers it: one that trained the epoch before
goes on from memory, any other one from the checkpoints, and on the CPU both give the same weights, bit for bit. Who
asks, decides and writes the journal is elsewhere; serial runs, ranks, processes and Ray all train here. Of ranks, which
answer together, the first alone writes checkpoints.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from fastplan.config import RunConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.decoders import Decoder
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.sampling import stream_rng
from fastplan.data.splits import Splits, open_splits
from fastplan.errors import UserError
from fastplan.models.interface import VideoNetwork
from fastplan.models.networks import build_network
from fastplan.models.pretrained import Pretrained, load_pretrained
from fastplan.ops import set_kernels
from fastplan.planner.arrivals import repeat_name
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Plan
from fastplan.planner.states import START, State
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.evaluate import Evaluation
from fastplan.train.precision import Precision
from fastplan.train.running import RunningClock
from fastplan.train.store import Store
from fastplan.train.trainer import EpochStats, Trainer, lr_factor


@dataclass(frozen=True)
class EdgeTraining:
    """One training of one state.

    key: the path that is trained up to here, `start>c8>u16`; names its checkpoints and its rows in the journal.
    source: the state before, or `start`. parent: name of the checkpoint to start from, None for the initial weights.
    warmup: epochs in which the learning rate rises. cosine: epochs of a cosine schedule; None for the state's constant
    learning rate. repeat: n > 0 draws everything random anew, the initial weights too, for the n-th time.
    """

    key: str
    source: str
    state: State
    parent: str | None
    warmup: int = 0
    cosine: int | None = None
    repeat: int = 0

    @property
    def stream(self) -> str:
        """Names the random numbers: those of an edge do not depend on the path that led to it."""
        return f"{self.source}->{repeat_name(self.state.name, self.repeat)}"


def training_of_leg(plan: Plan, number: int, parent: str | None, *, root: str = START) -> EdgeTraining:
    """The training of leg `number` (from 0) of a plan, from the checkpoint `parent` of the leg before.

    The states of legs are numbered, since a plan may hold one twice. root: what its key begins with.
    """
    names = [f"leg{i}-{leg.state.name}" for i, leg in enumerate(plan.legs[: number + 1], 1)]
    leg = plan.legs[number]
    return EdgeTraining(
        key=">".join((root, *names)),
        source=names[-2] if number else START,
        state=replace(leg.state, name=names[-1]),
        parent=parent,
        warmup=leg.warmup,
        cosine=leg.epochs if leg.schedule == "cosine" else None,
    )


@dataclass(frozen=True)
class Request:
    """One piece of work: train `epoch` (0: validate what the edge starts from), or score the checkpoint of `epoch`."""

    edge: EdgeTraining
    epoch: int
    what: Literal["epoch", "score"] = "epoch"


@dataclass(frozen=True)
class EpochDone:
    """A trained epoch whose checkpoints are on the disk; `stats` is None for epoch 0."""

    record: EpochRecord
    stats: EpochStats | None


Answer = EpochDone | Evaluation


@dataclass(frozen=True)
class Equipment:
    """All that a worker is made from, on whatever machine: it holds no data, no open file and no device.

    config: resolved. lost: clips that could not be read before this process began. data_fingerprint: of the training
    and validation videos. target: clip regime of every validation. largest_batch: of all states. crashes: the folder
    of the run's crashes, None where nobody keeps them.
    """

    config: RunConfig
    data_fingerprint: str
    target: State
    largest_batch: int
    decoder: Decoder
    store: Store
    lost: tuple[LostClip, ...] = ()
    crashes: Path | None = None

    def open_splits(self, threads: int) -> Splits:
        """The run's videos, for a worker in another process. Raises `UserError` where it sees other ones there."""
        config = self.config
        splits = open_splits(
            config.data,
            holdout=config.plan.holdout,
            seed=config.seed,
            threads=threads,
            progress=lambda title, total: lambda: None,
        )
        if (found := fingerprint(splits)) != self.data_fingerprint:
            raise UserError(
                f"a worker finds other videos than the run began with (fingerprint {found}, not "
                f"{self.data_fingerprint}): every machine must see the same files"
            )
        return splits


class EdgeTrainer:
    """The network, its trainer and loaders on one device. on_step: called with (step, steps) of the running epoch.

    ranks: each has an `EdgeTrainer`, and all are asked the same.
    """

    def __init__(
        self,
        equipment: Equipment,
        splits: Splits,
        device: torch.device,
        *,
        threads: int,
        lost: LostClips,
        on_step: Callable[[int, int], None],
        ranks: Ranks = ALONE,
    ) -> None:
        self._equipment, self._device, self._ranks = equipment, device, ranks
        config = equipment.config
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        torch.backends.cudnn.benchmark = True  # shapes stay the same for epochs; on the CPU it does nothing
        network = initial_network(config, splits.train.classes)[0].to(device)
        set_kernels(network, config.kernels)
        self._classes = splits.train.classes
        self._initial = {name: value.clone() for name, value in network.state_dict().items()}
        self._loader = ClipLoader(
            splits.train,
            config.data.augment,
            max_batch=ranks.share(equipment.largest_batch),
            threads=threads,
            decoder=equipment.decoder,
            device=device,
            keep_bytes=config.data.keep_mb << 20,
            timeout_s=config.data.decode_timeout_s,
            lost=lost,
            drop_nonref=config.data.drop_nonref,
        )
        self._clock = RunningClock()
        self._trainer = Trainer(
            network,
            config,
            train_loader=self._loader,
            val_loader=self._loader.beside(splits.val),
            target=equipment.target,
            precision=Precision(config.train.precision, device, "as resolved"),
            on_step=on_step,
            ranks=ranks,
            clock_s=self._clock.now_s,
        )
        self._at: tuple[EdgeTraining, int] | None = None

    def close(self) -> None:
        """Stop the decoding threads, and the clock's."""
        self._loader.close()
        self._clock.close()

    def answer(self, request: Request) -> Answer:
        """Do what is asked. Raises `UserError` where data, settings or disk do not allow it."""
        if request.what == "score":
            return self._score(request.edge, request.epoch)
        if request.epoch == 0:
            return self._validate_start(request.edge)
        return self._train_epoch(request.edge, request.epoch)

    def _validate_start(self, edge: EdgeTraining) -> EpochDone:
        self._go_to(edge, 0)
        begin = self._clock.now_s()
        accuracy = self._trainer.validate(views=self._equipment.config.plan.val_clips).video_top1
        seconds = self._clock.now_s() - begin
        return EpochDone(EpochRecord(0, accuracy, math.nan, 0, 0.0, 0.0, seconds, time.time()), None)

    def _train_epoch(self, edge: EdgeTraining, epoch: int) -> EpochDone:
        self._go_to(edge, epoch - 1)
        self._at = None
        changing = edge.cosine is not None or epoch <= edge.warmup
        scale = lr_factor(epoch, warmup=edge.warmup, cosine=edge.cosine) if changing else None
        stats = self._trainer.train_epoch(edge.stream, epoch, lr_scale=scale)
        begin, accuracy = self._clock.now_s(), math.nan
        if math.isfinite(stats.loss):
            accuracy = self._trainer.validate(views=self._equipment.config.plan.val_clips).video_top1
        val_seconds = self._clock.now_s() - begin
        store = self._equipment.store
        if self._ranks.rank == 0:
            store.save(store.weights_name(edge.key, epoch), self._trainer.weights())
            store.save(store.optimizer_name(edge.key, epoch), self._trainer.optimizer_state())
        self._at = (edge, epoch)
        times = (stats.seconds, stats.data_seconds, val_seconds, time.time())
        return EpochDone(EpochRecord(epoch, accuracy, stats.loss, stats.clip_frames, *times), stats)

    def _score(self, edge: EdgeTraining, epoch: int) -> Evaluation:
        self._at = None
        self._trainer.enter(edge.state, self._weights(edge, epoch))
        return self._trainer.validate(views=self._equipment.config.plan.score_clips)

    def _go_to(self, edge: EdgeTraining, epoch: int) -> None:
        """Be where `epoch` of the edge ended: at its start, or at its checkpoints unless it was trained here last."""
        if self._at == (edge, epoch):
            return
        store = self._equipment.store
        self._trainer.enter(edge.state, self._weights(edge, epoch))
        if epoch:
            optimizer = store.load(store.optimizer_name(edge.key, epoch), self._device)
            self._trainer.load_optimizer_state(optimizer)
        self._at = (edge, epoch)

    def _weights(self, edge: EdgeTraining, epoch: int) -> dict[str, Any]:
        """After an epoch of the edge; for 0 those that it starts from."""
        store = self._equipment.store
        name = store.weights_name(edge.key, epoch) if epoch else edge.parent
        if name is not None:
            return store.load(name, self._device)
        initial = self._initial
        if edge.repeat:
            initial = initial_network(self._equipment.config, self._classes, repeat=edge.repeat)[0].state_dict()
        return {"network": initial, "average": initial, "updates": 0}


def fingerprint(splits: Splits) -> str:
    """Of the videos that are trained on and that decide."""
    return f"{splits.train.fingerprint()}-{splits.val.fingerprint()}"


def initial_network(
    config: RunConfig, classes: Sequence[str], *, repeat: int = 0
) -> tuple[VideoNetwork, Pretrained | None]:
    """The network that every path starts from, the same for a seed and a repeat wherever it is made; on the CPU.

    And what it took from `network.pretrained`, None where it is random. Raises `UserError` where the two do not fit.
    """
    torch.manual_seed(int(stream_rng(config.seed, "repeat", repeat).integers(2**62)) if repeat else config.seed)
    network = build_network(config.network.name, len(classes), dropout=config.network.dropout)
    if config.network.pretrained is None:
        return network, None
    return network, load_pretrained(network, Path(config.network.pretrained), name=config.network.name, classes=classes)
