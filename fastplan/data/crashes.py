"""Which video was being decoded when a process crashed: known after its death, and not tried again in that run.

A decoder that crashes takes the process with it. So every thread notes the video it decodes in a file that is mapped
into memory, and Python's fault handler writes, at the crash, which thread it was. Whoever works in the folder next
reads both. Only a crash has last words: a kill, also one by a machine out of memory, blames no video, and neither does
a bus error (a disk that is full or gone) or a crash in a thread that decodes nothing.
"""

import faulthandler
import fcntl
import json
import mmap
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SLOTS = 64  # threads that decode at a time, those included that hang; more are not noted
_SLOT_BYTES = 4096
_HEAD = struct.Struct("<QH")  # the thread, and how long the path is: 0 where it decodes nothing
_LONGEST = _SLOT_BYTES - _HEAD.size
_BLAMED = "files.json"
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Illegal instruction": "SIGILL",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Bus error": "SIGBUS",
}


@dataclass(frozen=True)
class Crash:
    """How a process ended. signal: its name. path: the video that its decoder crashed in, None where none is to blame.
    words: the file that says what every thread was doing."""

    signal: str
    path: str | None
    words: Path


class Crashes:
    """The crashes of one run, in a folder of their own, and what this process is decoding.

    found: those that nobody had read yet. files: every video that has crashed a decoder, and the reason. Takes over
    the process's `faulthandler` until it is closed. Raises `OSError` where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            self.found = _read_all(folder)
            self.files = blamed(folder)
            self._notes = folder / f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.notes"
            self._file = self._notes.open("w+b", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # until this process ends, however it does
        os.posix_fallocate(self._file.fileno(), 0, _SLOTS * _SLOT_BYTES)  # no bus error later on a full disk
        self._memory = mmap.mmap(self._file.fileno(), _SLOTS * _SLOT_BYTES)
        self._free = list(range(_SLOTS))
        self._words = self._notes.with_suffix(".words").open("wb", buffering=0)
        self._was_enabled = faulthandler.is_enabled()
        faulthandler.enable(self._words)

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """While the calling thread decodes this video."""
        try:
            slot = self._free.pop()  # atomic
        except IndexError:
            yield
            return
        begin, name = slot * _SLOT_BYTES, os.fsencode(path)[:_LONGEST]
        self._memory[begin + _HEAD.size : begin + _HEAD.size + len(name)] = name
        _HEAD.pack_into(self._memory, begin, threading.get_ident(), len(name))
        try:
            yield
        finally:
            _HEAD.pack_into(self._memory, begin, 0, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Nothing crashed. Threads that hang may still be decoding."""
        faulthandler.disable()
        if self._was_enabled and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
        with _alone(self._notes.parent):  # others that close at the same moment look at every file
            for path in (self._notes, self._notes.with_suffix(".words")):
                path.unlink(missing_ok=True)
            self._words.close()
            self._file.close()
            _read_all(self._notes.parent)  # workers were killed, which leaves notes without last words


def blamed(folder: Path) -> dict[str, str]:
    """Every video that has crashed a decoder, and the reason; `folder` need not exist."""
    file = folder / _BLAMED
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _blame(folder: Path, path: str, reason: str) -> None:
    partial = folder / f"{_BLAMED}.partial"
    partial.write_text(json.dumps({**blamed(folder), path: reason}, indent=1), encoding="utf-8")
    partial.replace(folder / _BLAMED)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_all(folder: Path) -> list[Crash]:
    return [crash for notes in sorted(folder.glob("*.notes")) if (crash := _read(notes))]


def _read(notes: Path) -> Crash | None:
    """The crash that these notes tell of, which are gone then; None where there was none, or the process lives."""
    with notes.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        content = file.read()
    words = notes.with_suffix(".words")
    said = words.read_text(encoding="utf-8", errors="replace") if words.exists() else ""
    crash = None
    if fatal := re.search(r"^Fatal Python error: (.+)$", said, re.MULTILINE):
        signal = _SIGNALS.get(fatal[1].strip(), fatal[1].strip())
        path = _path_of(content, said) if signal != "SIGBUS" else None
        if path is not None:
            _blame(notes.parent, path, f"the decoder crashed ({signal})")
        crash = Crash(signal, path, words.rename(words.with_suffix(".txt")))
    notes.unlink()
    words.unlink(missing_ok=True)
    return crash


def _path_of(content: bytes, said: str) -> str | None:
    """What the thread was decoding that crashed; a thread that Python does not know has no name in `said`."""
    current = re.search(r"^Current thread 0x([0-9a-f]+)", said, re.MULTILINE)
    if current is None:
        return None
    for begin in range(0, len(content) - _SLOT_BYTES + 1, _SLOT_BYTES):
        thread, length = _HEAD.unpack_from(content, begin)
        if length and thread == int(current[1], 16):
            return os.fsdecode(content[begin + _HEAD.size :][:length])
    return None
