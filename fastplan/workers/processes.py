"""Workers as processes of this machine: one GPU each, or a share of the cores where there is no GPU.

The processes are forked from a clean server that has imported torch and nothing else has happened in, so they start
fast and no thread or CUDA context is copied. They hear requests and tell answers over a pipe each. A worker whose
driver dies ends at once; one that dies is replaced.
"""

import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from fastplan.train.edge import Equipment, Request
from fastplan.workers import Event, Lost
from fastplan.workers.serving import event_of, serve


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
            message = self._slots[number].pipe.recv()
        except (EOFError, ConnectionError):
            return self._replace(number)
        return event_of(number, self.names[number], message)

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
    device = torch.device("cpu" if visible is None else "cuda")
    serve(equipment, device, threads=threads, receive=pipe.recv, send=pipe.send)


def _die_with_the_driver() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
