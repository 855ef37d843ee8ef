"""A run has its folder to itself, and where the disk cannot promise that, the user is told so and nothing else."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from fastplan.errors import UserError
from fastplan.rundir import RunDir


def test_a_folder_in_use_is_refused_and_free_again_after_close(tmp_path: Path) -> None:
    first = RunDir(tmp_path)
    first.claim()
    first.claim()
    with pytest.raises(UserError, match="another process is working in"):
        RunDir(tmp_path).claim()
    first.close()
    RunDir(tmp_path).claim()


def test_a_disk_without_locks_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre without -o flock."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"locks no files \(Function not implemented\)"):
        RunDir(tmp_path).claim()
