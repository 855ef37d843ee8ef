"""Workers as actors of a Ray cluster, on this machine or on many; the only importer of Ray.

RAY_ADDRESS names a cluster, else one is begun on this machine for the run. Every machine needs fastplan, and sees the
videos, the cache and the run folder (or `checkpoints`) under the same paths. An actor ends with the driver's job.
"""

import logging
import os
import queue
import threading
from collections import deque
from typing import Any

import torch

from fastplan.errors import UserError
from fastplan.train.edge import Equipment, Request
from fastplan.workers import Event, Lost
from fastplan.workers.serving import Message, event_of, serve

try:
    import ray
except ImportError:
    raise UserError("--workers ray needs Ray, which is not installed: pip install 'fastplan[ray]'") from None

_POLL_SECONDS = 0.5


class RayWorkers:
    """`count` actors with a GPU each, or a core each on the CPU; None for as many as the cluster has room for."""

    def __init__(self, equipment: Equipment, device: torch.device, *, count: int | None, threads: int) -> None:
        if not ray.is_initialized():
            here: dict[str, Any] = (
                {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False, "num_cpus": count}
            )
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
        kind = "GPU" if device.type == "cuda" else "CPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if (count or 1) > room:
            raise UserError(f"--workers asks for {count or 1}, and the Ray cluster has {room} {kind}s")
        resources: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if kind == "GPU" else {"num_cpus": 1}
        remote: Any = ray.remote
        self._actor = remote(max_concurrency=2, max_restarts=0, **resources)(_RayWorker)
        self._arguments = (equipment, str(device.type), threads, os.getcwd())
        self._events: deque[Event] = deque()
        self._polls: dict[Any, int] = {}
        self._actors = [self._actor.remote(*self._arguments) for _ in range(count or room)]
        for slot in range(len(self._actors)):
            self._poll(slot)

    @property
    def names(self) -> list[str]:
        """`ray 1`, `ray 2` and so on."""
        return [f"ray {slot + 1}" for slot in range(len(self._actors))]

    def submit(self, slot: int, request: Request) -> None:
        """Send it; an actor that is dead by now is found out by `wait`."""
        self._actors[slot].submit.remote(request)

    def wait(self) -> Event:
        """The next message of any actor, or the end of one."""
        while not self._events:
            (done, *_), _ = ray.wait(list(self._polls), num_returns=1)
            slot = self._polls.pop(done)
            try:
                messages: list[Message] = ray.get(done)
            # What Ray's memory monitor kills dies of an error that is no RayActorError.
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                self._actors[slot] = self._actor.remote(*self._arguments)
                self._events.append(Lost(slot, str(error).splitlines()[0]))
            else:
                self._events.extend(event_of(slot, self.names[slot], message) for message in messages)
            self._poll(slot)
        return self._events.popleft()

    def close(self) -> None:
        """End the actors, and Ray where it was begun here."""
        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()

    def _poll(self, slot: int) -> None:
        self._polls[self._actors[slot].messages.remote()] = slot


class _RayWorker:
    """Trains in a thread of its own, so that it can be asked what happens meanwhile."""

    def __init__(self, equipment: Equipment, device: str, threads: int, folder: str) -> None:
        self._requests: queue.Queue[Request] = queue.Queue()
        self._messages: queue.Queue[Message] = queue.Queue()
        arguments = (equipment, device, threads, folder)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()

    def submit(self, request: Request) -> None:
        """Something to do."""
        self._requests.put(request)

    def messages(self) -> list[Message]:
        """What was told since the last call; waits a little for something."""
        found: list[Message] = []
        try:
            found.append(self._messages.get(timeout=_POLL_SECONDS))
            while True:
                found.append(self._messages.get_nowait())
        except queue.Empty:
            return found

    def _work(self, equipment: Equipment, device: str, threads: int, folder: str) -> None:
        try:
            os.chdir(folder)
        except OSError as error:
            where = os.uname().nodename
            self._messages.put(
                ("mistake", f"{where} has no folder {folder} ({error.strerror}); workers share one disk")
            )
            return
        serve(equipment, torch.device(device), threads=threads, receive=self._requests.get, send=self._messages.put)
