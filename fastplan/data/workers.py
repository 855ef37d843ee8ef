"""Threads for work that may hang: one that takes too long is given up and replaced, one that dies is reported.

The threads are daemons: one that hangs in a read of a dead network drive keeps neither the run nor the exit waiting.
Time in which the whole process stood still, stopped by a person or by a batch system, is nobody's fault and is not
counted.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

_POLL_S = 0.1
_STOOD_STILL_S = 1.0  # longer than that from one poll to the next


class AbandonedError(Exception):
    """Nobody wants the result any more."""


class Task(Generic[Result]):
    """Work that was handed to a thread."""

    def __init__(self, work: Callable[[], Result], workers: "Workers") -> None:
        self._work: Callable[[], Result] | None = work
        self._workers = workers
        self._done = threading.Event()
        self._result: Result
        self._error: BaseException | None = None
        self.thread: threading.Thread | None = None
        self.begun_s = 0.0  # by `Workers.awake_s`
        self.given_up = False

    def result(self, abandoned: threading.Event) -> Result:
        """What the work gave, or the exception it raised.

        Raises `TimeoutError` where it took too long, `RuntimeError` where its thread died, `AbandonedError` where that
        event is set before it is done.
        """
        while not self._done.wait(_POLL_S) and not self.given_up:
            if abandoned.is_set():
                raise AbandonedError
            if self.thread is not None and not self.thread.is_alive() and not self._done.is_set():
                raise RuntimeError("a decode thread died without a word")
        if self.given_up:
            raise TimeoutError(f"took more than {self._workers.limit_s:g} s")
        if self._error is None:
            return self._result
        if not isinstance(self._error, Exception):
            raise RuntimeError(f"a decode thread died: {self._error!r}") from self._error
        raise self._error

    def cancel(self) -> None:
        """Do not begin it, if it has not begun."""
        self._work = None

    def run(self) -> None:
        """Do the work, in the calling thread."""
        work = self._work
        if work is None:
            return
        self.begun_s, self.thread = self._workers.awake_s, threading.current_thread()
        try:
            self._result = work()
        except BaseException as error:  # noqa: BLE001  (it is raised again where the result is asked for)
            self._error = error
        finally:
            self._done.set()


class Workers:
    """`threads` threads that do what is submitted, first come first served.

    limit_s: the longest that a task may take from the moment it begins, None for any time.
    """

    def __init__(self, threads: int, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._todo: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._running: dict[threading.Thread, Task[Any]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.awake_s = 0.0  # since they began, as the limit counts it
        for _ in range(threads):
            self._start()
        if limit_s is not None:
            threading.Thread(target=self._watch, args=(limit_s,), name="decode watch", daemon=True).start()

    def submit(self, work: Callable[[], Result]) -> Task[Result]:
        """Hand work to the next free thread."""
        task = Task(work, self)
        self._todo.put(task)
        return task

    def close(self) -> None:
        """End the threads that wait; whoever works ends after its task, or never."""
        self._closed.set()
        self._todo.put(None)

    def _watch(self, limit_s: float) -> None:
        """Give up every task that takes too long; new threads take the places of theirs."""
        seen_s = time.monotonic()
        while not self._closed.wait(_POLL_S):
            before_s, seen_s = seen_s, time.monotonic()
            if seen_s - before_s < _STOOD_STILL_S:
                self.awake_s += seen_s - before_s
            with self._lock:
                for thread, task in list(self._running.items()):
                    if task.thread is not None and self.awake_s - task.begun_s > limit_s:
                        task.given_up = True
                        del self._running[thread]
                        self._start()

    def _start(self) -> None:
        threading.Thread(target=self._serve, name="decode", daemon=True).start()

    def _serve(self) -> None:
        me = threading.current_thread()
        while (task := self._todo.get()) is not None:
            with self._lock:
                self._running[me] = task
            task.run()
            with self._lock:
                self._running.pop(me, None)
            if task.given_up:  # another thread has taken this one's place
                return
        self._todo.put(None)  # the word to end, for the next one
