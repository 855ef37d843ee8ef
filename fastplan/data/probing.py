"""Probing many files at once, each worker a process of its own.

A damaged file may make a decoder crash, or never come back. A worker that dies or takes too long is replaced, and the
file it had is bad, with that as the reason; all others are probed as if nothing had happened. One file in, one row of
the index out, as an Arrow stream.
"""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa

from fastplan.data.probe import bad_row, probe_place
from fastplan.data.storage import Place
from fastplan.data.store_files import SCHEMA, as_batch

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from fastplan.data.probing import serve; serve()"
_TOO_SLOW = "takes more than {} s to decode"
_LENGTH_BYTES = 8
_START_LIMIT_S = 120.0
_POLL_S = 0.5
_STOOD_STILL_S = 2.0  # longer than that from one poll to the next: all was stopped, and no decoder is to blame
_FILES_PER_WORKER = 4  # with fewer, another worker costs more (0.4 s of CPU) than it gains


def probe_all(
    places: Iterable[Place], *, files: int, workers: int, limit_s: float, hash_content: bool = False
) -> Iterator[pa.RecordBatch]:
    """A row for every place, in the order in which they are done.

    files: how many. limit_s: seconds after which a file is given up as bad. Raises `RuntimeError` where workers do not
    even start.
    """
    waiting = iter(places)
    count = max(min(workers, -(-files // _FILES_PER_WORKER)), 1)
    with selectors.DefaultSelector() as ready:
        running: set[_Worker] = set()

        def employ(worker: _Worker | None) -> None:
            """Give the next file to this worker, or to a new one; with no file left, it may go."""
            place = next(waiting, None)
            if place is not None:
                if worker is None:
                    worker = _Worker()
                    running.add(worker)
                    ready.register(worker.output, selectors.EVENT_READ, worker)
                worker.begin(place, limit_s, hash_content)
            elif worker is not None:
                dismiss(worker)
                worker.stop()

        def dismiss(worker: _Worker) -> None:
            running.remove(worker)
            ready.unregister(worker.output)

        try:
            for _ in range(count):
                employ(None)
            seen_s = time.monotonic()
            while running:
                for key, _ in ready.select(_POLL_S):
                    key.data.receive()
                before_s, seen_s = seen_s, time.monotonic()
                if seen_s - before_s > _STOOD_STILL_S:
                    for worker in running:
                        worker.deadline_s += seen_s - before_s
                for worker in [w for w in running if w.has_answer or w.is_dead or time.monotonic() > w.deadline_s]:
                    if worker.has_answer:
                        yield worker.answer()
                        employ(worker)
                    else:
                        dismiss(worker)
                        yield worker.obituary()
                        employ(None)
        finally:
            for worker in running:
                worker.kill()


def too_slow(reason: str) -> float | None:
    """The limit in seconds that a bad row says it was given up at, else None."""
    found = re.fullmatch(_TOO_SLOW.format(r"(\S+)"), reason)
    return float(found[1]) if found else None


def serve() -> None:
    """The worker: a place a line from standard input, its row to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who reads the rows decides when to stop
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    _send(sys.stdout.buffer, b"")
    for line in sys.stdin:
        place, hash_content = json.loads(line)
        row = as_batch(probe_place(Place(*place), hash_content=hash_content))
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, SCHEMA) as writer:
            writer.write_batch(row)
        _send(sys.stdout.buffer, stream.getvalue())


def _end_with(parent: int) -> None:
    """End when the process that began this one has: while a decoder hangs, nobody sees that the input is closed."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)


def _send(output: IO[bytes], content: bytes) -> None:
    output.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)
    output.flush()


class _Worker:
    """One process, with at most one file at a time."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout
        self._input, self.output = self._process.stdin, self._process.stdout
        self._place = Place("")
        self._limit_s = 0.0
        self._received = b""
        self._started = False
        self.deadline_s = 0.0
        self.has_answer = self.is_dead = False

    def begin(self, place: Place, limit_s: float, hash_content: bool) -> None:
        """Give it a file."""
        self._place, self._limit_s, self.has_answer = place, limit_s, False
        self.deadline_s = time.monotonic() + (limit_s if self._started else max(limit_s, _START_LIMIT_S))
        try:
            self._input.write(json.dumps([place, hash_content]).encode() + b"\n")
        except BrokenPipeError:
            self.is_dead = True

    def receive(self) -> None:
        """Take what is there of the answer."""
        content = os.read(self.output.fileno(), 1 << 20)
        self.is_dead = not content
        self._received += content
        if not self._started and len(self._received) >= _LENGTH_BYTES:
            self._started = True
            self._received = self._received[_LENGTH_BYTES:]
            self.deadline_s = time.monotonic() + self._limit_s
        length = int.from_bytes(self._received[:_LENGTH_BYTES], "little")
        self.has_answer = self._started and 0 < length <= len(self._received) - _LENGTH_BYTES

    def answer(self) -> pa.RecordBatch:
        """The row of its file."""
        content, self._received = self._received[_LENGTH_BYTES:], b""
        return pa.ipc.open_stream(content).read_next_batch()

    def obituary(self) -> pa.RecordBatch:
        """The row of the file over which it died, or was too slow; the process is gone then."""
        if not self.is_dead:
            self.kill()
            return as_batch(bad_row(self._place, _TOO_SLOW.format(f"{self._limit_s:g}")))
        status = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        self.kill()
        if not self._started:
            raise RuntimeError(f"probing does not start: {last}")
        how = signal.Signals(-status).name if status < 0 else last
        return as_batch(bad_row(self._place, f"the decoder crashed ({how})"))

    def stop(self) -> None:
        """End it in its own time."""
        self._input.close()
        self._process.wait()
        self.kill()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        for file in (self._input, self.output, self._errors):
            file.close()
