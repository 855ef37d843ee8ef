"""A worker's life in another process, and how its messages become events: the same over pipes and over Ray."""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from fastplan.data.crashes import Crashes
from fastplan.data.lost import LostClips
from fastplan.errors import UserError
from fastplan.train.edge import EdgeTrainer, Equipment, Request
from fastplan.workers import Answered, Event, Stepped, Unread

_STEP_SECONDS = 0.2  # a worker tells at most so often where its epoch is

Message = tuple[str, Any]


def serve(
    equipment: Equipment,
    device: torch.device,
    *,
    threads: int,
    receive: Callable[[], Request],
    send: Callable[[Message], None],
) -> None:
    """Answer requests until `receive` raises `EOFError` or `OSError`, or something goes wrong, which is told too."""
    told, sending = 0.0, threading.Lock()

    def tell(kind: str, content: Any) -> None:
        with sending:  # clips are lost in the loader's thread
            send((kind, content))

    def on_step(step: int, steps: int) -> None:
        nonlocal told
        if step == steps or time.monotonic() - told > _STEP_SECONDS:
            told = time.monotonic()
            tell("step", (step, steps))

    try:
        fraction = equipment.config.data.max_bad_fraction
        lost = LostClips(fraction, before=equipment.lost, on_lost=lambda clip: tell("unread", clip))
        if equipment.crashes is not None and equipment.crashes.is_dir():  # not on a machine that sees checkpoints only
            lost.watch(Crashes(equipment.crashes))
        splits = equipment.open_splits(threads)
        trainer = EdgeTrainer(equipment, splits, device, threads=threads, lost=lost, on_step=on_step)
        while True:
            tell("answer", trainer.answer(receive()))
    except UserError as error:
        tell("mistake", str(error))
    except (EOFError, ConnectionError):
        return
    except Exception:  # noqa: BLE001  (the driver raises it)
        tell("defect", traceback.format_exc())


def event_of(slot: int, name: str, message: Message) -> Event:
    """What a worker tells. Raises `UserError` where it met one, `RuntimeError` with its traceback for a defect."""
    kind, content = message
    if kind == "mistake":
        raise UserError(content)
    if kind == "defect":
        raise RuntimeError(f"{name} failed:\n{content}")
    if kind == "unread":
        return Unread(slot, content)
    return Stepped(slot, *content) if kind == "step" else Answered(slot, content)
