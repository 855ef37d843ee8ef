"""Which workers a run has: `1` (this process), `4` (processes of this machine), `ray` or `ray:8` (a Ray cluster)."""

import os
import re
from dataclasses import dataclass, replace
from functools import partial

import torch

from fastplan.data.lost import LostClips
from fastplan.data.splits import Splits
from fastplan.errors import UserError
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.edge import Equipment
from fastplan.watcher import Watcher
from fastplan.workers import Workers
from fastplan.workers.processes import ProcessWorkers
from fastplan.workers.ranks import RankWorker
from fastplan.workers.serial import SerialWorker


@dataclass(frozen=True)
class WorkerChoice:
    """count: how many, None for as many as a Ray cluster has room for. ray: whether they are Ray's."""

    count: int | None = 1
    ray: bool = False

    @classmethod
    def parse(cls, text: str) -> "WorkerChoice":
        """Read what --workers was given. Raises `UserError` for any other form."""
        match = re.fullmatch(r"(ray)?:?(\d+)?", text)
        if (
            match is None
            or not text
            or (match[2] and int(match[2]) < 1)
            or (":" in text) != bool(match[1] and match[2])
        ):
            raise UserError(f"--workers is '{text}'; give a number of processes such as 4, or ray, or ray:8")
        return cls(int(match[2]) if match[2] else None, bool(match[1]))

    def checked(self, device: torch.device, ranks: Ranks = ALONE) -> "WorkerChoice":
        """Itself. Raises `UserError` where this machine has not so many GPUs; Ray knows its own machines.

        Also where there are ranks, which train one edge together: workers would train several at once.
        """
        if ranks.world > 1 and self != WorkerChoice():
            raise UserError(
                f"torchrun started {ranks.world} ranks, which train every edge together; --workers trains several "
                "edges at the same time: leave one of the two out"
            )
        if not self.ray and device.type == "cuda" and (self.count or 1) > len(visible_gpus()):
            raise UserError(f"--workers {self.count} wants a GPU each, and this machine has {len(visible_gpus())}")
        return self

    def describe(self, device: torch.device) -> str:
        """For the first lines of a run."""
        if self.ray:
            return f"{self.count or 'as many as there is room for'} on a Ray cluster"
        if self.count == 1:
            return "this process"
        where = "one GPU each" if device.type == "cuda" else f"sharing {len(os.sched_getaffinity(0))} cores"
        return f"{self.count} processes, {where}"


def open_workers(
    choice: WorkerChoice,
    equipment: Equipment,
    splits: Splits,
    device: torch.device,
    *,
    threads: int,
    lost: LostClips,
    watcher: Watcher,
    ranks: Ranks = ALONE,
) -> Workers:
    """Start the workers. threads: for decoding, shared by the workers of this machine. lost: of a worker in here.

    ranks: of which this is the first.
    """
    in_here = partial(
        SerialWorker,
        equipment,
        splits,
        device,
        threads=ranks.share_threads(threads),
        lost=lost,
        on_step=watcher.step,
        ranks=ranks,
    )
    if ranks.world > 1:
        return RankWorker(ranks, equipment, splits, lost, in_here)
    if choice.ray:
        from fastplan.workers.on_ray import RayWorkers

        return RayWorkers(equipment, device, count=choice.count, threads=threads)
    count = choice.count or 1
    if count == 1:
        return in_here()
    visible = visible_gpus()[:count] if device.type == "cuda" else None
    share = max(threads // count, 1)
    if visible is None and not equipment.config.train.threads:
        cores = max(torch.get_num_threads() // count, 1)
        train = equipment.config.train.model_copy(update={"threads": cores})
        equipment = replace(equipment, config=equipment.config.model_copy(update={"train": train}))
    return ProcessWorkers(equipment, count=count, threads=share, visible=visible)


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU of this process."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
