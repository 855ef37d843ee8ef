"""A short probe: what an epoch of every state takes on this machine with this data, measured before a search begins."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fastplan.config import RunConfig
from fastplan.data.batch import ClipLoader, choose_decoder, default_threads
from fastplan.data.splits import Splits, open_splits
from fastplan.errors import UserError
from fastplan.launch import Task
from fastplan.ops import set_kernels
from fastplan.planner.curve import most_in_play
from fastplan.planner.states import State
from fastplan.train.disk import DiskUse, disk_use
from fastplan.train.edge import initial_network
from fastplan.train.precision import Precision, choose_device, choose_precision
from fastplan.train.trainer import Trainer

_WARM_STEPS, _STEPS = 2, 4
_VAL_VIDEOS = 64


@dataclass(frozen=True)
class StatePrice:
    """One epoch of a state, as measured.

    clips_per_s: trained, waiting for clips included. waiting: share of that time spent waiting, 0..1. train_seconds,
    val_seconds: of a whole epoch and of the validation after it. peak_bytes: allocated on the GPU, 0 on the CPU.
    """

    clips_per_s: float
    waiting: float
    train_seconds: float
    val_seconds: float
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Training and validation."""
        return self.train_seconds + self.val_seconds


@dataclass(frozen=True)
class Probe:
    """What was measured, and on what.

    prices: by the state's name. epoch_clips: clips of an epoch. val_videos: that decide. disk: of a
    search of as many states.
    """

    device: str
    precision: str
    prices: dict[str, StatePrice]
    epoch_clips: int
    val_videos: int
    classes: int
    disk: DiskUse


def probe(task: Task, progress: Callable[[str, int], Callable[[], None]]) -> Probe:
    """Train a few steps in every regime of the task's states, and validate some videos.

    progress: makes a bar of so many steps and gives what moves it on. Nothing is saved. Raises `UserError` where data,
    network or device do not fit, or a state does not fit into the GPU's memory.
    """
    config, target = task.config, task.target
    device, _ = choose_device(config.device)
    threads = config.data.threads or default_threads()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    splits = open_splits(config.data, holdout=config.plan.holdout, seed=config.seed, threads=threads, progress=progress)
    regimes = {_regime(state): state for state in reversed(task.states)}
    step = progress("Probing states", len(regimes))
    network, _ = initial_network(config, splits.train.classes)
    precision = choose_precision(config.train.precision, device)
    measured = {}
    for regime, state in reversed(regimes.items()):
        measured[regime] = _measure(state, target, config, splits, precision, threads)
        step()
    return Probe(
        device=str(device),
        precision=precision.name,
        prices={state.name: measured[_regime(state)] for state in task.states},
        epoch_clips=_epoch_clips(config, splits),
        val_videos=len(splits.val),
        classes=len(splits.train.classes),
        disk=disk_use(
            network,
            epochs=most_in_play(task.most_epochs, rule=config.plan.knee),
            states=len(task.states),
            paused=task.most_paused(one_by_one=True),
        ),
    )


def _measure(
    state: State, target: State, config: RunConfig, splits: Splits, precision: Precision, threads: int
) -> StatePrice:
    network = initial_network(config, splits.train.classes)[0].to(precision.device)
    set_kernels(network, config.kernels)
    val = splits.val.take(range(min(_VAL_VIDEOS, len(splits.val))))
    loader = ClipLoader(
        splits.train,
        config.data.augment,
        max_batch=max(state.largest_batch, target.largest_batch),
        threads=threads,
        decoder=choose_decoder(splits.train, precision.device, config.data.decoder)[0],
        device=precision.device,
        timeout_s=config.data.decode_timeout_s,
        drop_nonref=config.data.drop_nonref,
    )
    clips = sum(batch for _, batch in state.cycle) * state.accumulate
    try:
        stats = None
        for epoch, steps in enumerate((_WARM_STEPS, _STEPS), 1):
            short = config.data.model_copy(update={"clips_per_epoch": steps * clips})
            trainer = Trainer(
                network,
                config.model_copy(update={"data": short}),
                train_loader=loader,
                val_loader=loader.beside(val),
                target=target,
                precision=precision,
            )
            trainer.enter(state, None)
            stats = trainer.train_epoch("probe", epoch)
        assert stats is not None
        estimating = _timed(trainer.kept_network)
        validating = _timed(lambda: trainer.validate(views=config.plan.val_clips)) - estimating
    except torch.OutOfMemoryError:
        raise UserError(
            f"state '{state.name}' does not fit into the GPU's memory: {state.batch_size} clips of {state.clip}; lower "
            "batch_size and raise accumulate"
        ) from None
    finally:
        loader.close()
    per_second = stats.clips / stats.seconds
    return StatePrice(
        clips_per_s=per_second,
        waiting=stats.data_seconds / stats.seconds,
        train_seconds=_epoch_clips(config, splits) / per_second,
        val_seconds=estimating + max(validating, 0.0) * len(splits.val) / len(val),
        peak_bytes=precision.peak_bytes(),
    )


def _regime(state: State) -> State:
    """The state without its name and learning rate, which cost nothing."""
    return replace(state, name="regime", lr=1.0)


def _epoch_clips(config: RunConfig, splits: Splits) -> int:
    return config.data.clips_per_epoch or len(splits.train)


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
