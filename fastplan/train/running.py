"""Time in which this process ran: what a training costs, and what a budget in hours counts.

A process that is stopped (control-Z, SIGSTOP, a frozen container) is not told so. A thread looks at the clocks twice a
second; where seconds have passed since its last look in which the process used next to no processor, it stood still.
A process that waits, for a GPU or for a file, is no such one: its thread goes on looking.
"""

import threading
import time

_LOOK_S = 0.5
_STILL_S = 3.0  # from one look to the next; a machine with many processes a core delays a look by less
_IDLE = 0.05  # of a processor; a call that keeps the thread from looking uses a whole one


class RunningClock:
    """Seconds since some moment, those left out in which the process stood still. Close it: it owns a thread."""

    def __init__(self) -> None:
        self._still_s = 0.0
        self._seen_s, self._used_s = time.perf_counter(), time.process_time()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="running clock", daemon=True)
        self._thread.start()

    def now_s(self) -> float:
        """For differences only; exact to half a second where the process stood still between the two."""
        with self._lock:
            seen_s, used_s = time.perf_counter(), time.process_time()
            passed_s = seen_s - self._seen_s
            if passed_s > _STILL_S and used_s - self._used_s < _IDLE * passed_s:
                self._still_s += passed_s - _LOOK_S / 2
            self._seen_s, self._used_s = seen_s, used_s
            return seen_s - self._still_s

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_S):
            self.now_s()
