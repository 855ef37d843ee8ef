"""Workers as processes of this machine: one GPU each, or a share of the cores where there is no GPU.

The processes are forked from a clean server that has imported torch and nothing else has happened in, so they start
fast and no thread or CUDA context is copied. They hear requests and tell answers over a pipe each. A worker whose
driver dies ends at once; one that dies is replaced.
"""

import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from fastplan.data.lost import LostClips
from fastplan.errors import UserError
from fastplan.train.edge import EdgeTrainer, Equipment, Request
from fastplan.workers import Answered, Event, Lost, Stepped, Unread

_STEP_SECONDS = 0.2  # a worker tells at most so often where its epoch is


@dataclass
class _Slot:
    process: BaseProcess
    pipe: Connection


class ProcessWorkers:
    """`count` processes. threads: for decoding, in each. visible: CUDA_VISIBLE_DEVICES of each, None for the CPU."""

    def __init__(self, equipment: Equipment, *, count: int, threads: int, visible: list[str] | None) -> None:
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["fastplan.train.edge"])
        self._equipment, self._threads, self._visible = equipment, threads, visible
        self._slots = [self._begin(slot) for slot in range(count)]

    @property
    def names(self) -> list[str]:
        """`worker 1`, or `GPU 0`."""
        if self._visible is not None:
            return [f"GPU {name}" for name in self._visible]
        return [f"worker {slot + 1}" for slot in range(len(self._slots))]

    def submit(self, slot: int, request: Request) -> None:
        """Send it; a worker that is dead by now is found out by `wait`."""
        try:
            self._slots[slot].pipe.send(request)
        except OSError:
            return

    def wait(self) -> Event:
        """The next message of any worker, or the end of one."""
        pipes = {slot.pipe: number for number, slot in enumerate(self._slots)}
        number = pipes[connection.wait(list(pipes))[0]]  # type: ignore[index]
        try:
            kind, content = self._slots[number].pipe.recv()
        except (EOFError, ConnectionError):
            return self._replace(number)
        if kind == "mistake":
            raise UserError(content)
        if kind == "defect":
            raise RuntimeError(f"{self.names[number]} failed:\n{content}")
        if kind == "unread":
            return Unread(number, content)
        return Stepped(number, *content) if kind == "step" else Answered(number, content)

    def close(self) -> None:
        """Kill them: all that is worth keeping is in files by now."""
        for slot in self._slots:
            slot.process.kill()
            slot.pipe.close()
        for slot in self._slots:
            slot.process.join()

    def _replace(self, number: int) -> Lost:
        slot = self._slots[number]
        slot.pipe.close()
        slot.process.join()
        code = slot.process.exitcode or 0
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        if -code == signal.SIGKILL:
            why += ", as by a machine that runs out of memory"
        self._slots[number] = self._begin(number)
        return Lost(number, why)

    def _begin(self, number: int) -> _Slot:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._equipment, self._threads, self._visible[number] if self._visible else None)
        process = self._context.Process(target=_work, args=arguments, daemon=True, name=f"fastplan worker {number + 1}")
        process.start()
        theirs.close()
        return _Slot(process, ours)


def _work(pipe: Connection, equipment: Equipment, threads: int, visible: str | None) -> None:
    """A worker's life: requests in, answers out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the driver's business
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    told, sending = 0.0, threading.Lock()

    def send(kind: str, content: Any) -> None:
        with sending:  # clips are lost in the loader's thread
            pipe.send((kind, content))

    def on_step(step: int, steps: int) -> None:
        nonlocal told
        if step == steps or time.monotonic() - told > _STEP_SECONDS:
            told = time.monotonic()
            send("step", (step, steps))

    try:
        device = torch.device("cpu" if visible is None else "cuda")
        fraction = equipment.config.data.max_bad_fraction
        lost = LostClips(fraction, before=equipment.lost, on_lost=lambda clip: send("unread", clip))
        splits = equipment.open_splits(threads)
        trainer = EdgeTrainer(equipment, splits, device, threads=threads, lost=lost, on_step=on_step)
        while True:
            request: Any = pipe.recv()
            send("answer", trainer.answer(request))
    except UserError as error:
        send("mistake", str(error))
    except (EOFError, ConnectionError):
        return
    except Exception:  # noqa: BLE001  (the driver raises it)
        send("defect", traceback.format_exc())


def _die_with_the_driver() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
