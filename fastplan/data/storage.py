"""Where the bytes of a video lie: a file, or a member of a tar shard, on a disk or wherever fsspec reads.

Bytes are read by range only, so a video inside a shard costs what a video in a file costs, and an object store is as
good as a disk.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import fsspec

from fastplan.data.pictures import picture_files
from fastplan.errors import UserError

_BUFFER_BYTES = 1 << 18


class ByteRange(Protocol):
    """Something that is read by range."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""


class Place(NamedTuple):
    """The bytes of one video.

    path: names the video. shard: the tar file that holds it, empty where the video is a file of its own; then `begin`
    and `size` are its bytes in the shard. Paths with `://` are opened by fsspec. first_picture: where `path` is the
    pattern of a folder of pictures, the number of the first; else None.
    """

    path: str
    shard: str = ""
    begin: int = 0
    size: int = 0
    first_picture: int | None = None

    @contextmanager
    def open(self) -> Iterator[ByteRange]:
        """The bytes of the video, to be read by range. Raises `OSError` where there are none."""
        whole: _LocalFile | _RemoteFile
        file = self.shard or self.path
        whole = _RemoteFile(file) if is_remote(file) else _LocalFile(file)
        try:
            yield _Part(whole, self.begin, self.size) if self.shard else whole
        finally:
            whole.close()

    @contextmanager
    def open_demuxable(self) -> Iterator[Any]:
        """What `av.open` takes: the path of a local file, else a file object."""
        if not self.shard and not is_remote(self.path):
            yield self.path
            return
        with self.open() as source, io.BufferedReader(Stream(source), _BUFFER_BYTES) as stream:
            yield stream

    def absolute(self) -> "Place":
        """The same place from whatever folder one looks."""
        if is_remote(self.shard or self.path):
            return self
        path, shard = os.path.abspath(self.path), self.shard and os.path.abspath(self.shard)
        return self if (path, shard) == (self.path, self.shard) else self._replace(path=path, shard=shard)

    def stamp(self) -> str:
        """Changes when the file does; empty where there is none."""
        file = self.shard or self.path
        try:
            if is_remote(file):
                with _store_errors(file):
                    filesystem, name = _open_filesystem(file)
                    facts = filesystem.info(name)
                    # What fsspec says of a file over HTTP is its address alone.
                    seen = [facts[key] for key in ("size", "ETag", "Last-Modified") if facts.get(key)]
                    return " ".join(map(str, (filesystem.ukey(name), *seen)))
            if self.first_picture is not None:
                seen = [(status.st_size, status.st_mtime_ns) for status in picture_files(file)]
                return f"{sum(size for size, _ in seen)} {max(time for _, time in seen)}" if seen else ""
            status = os.stat(file)
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"


def is_remote(path: str) -> bool:
    """Whether fsspec opens this path."""
    return "://" in path


class _LocalFile:
    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        os.close(self._descriptor)


class _RemoteFile:
    def __init__(self, url: str) -> None:
        self._filesystem, self._name = _open_filesystem(url)

    @cached_property
    def size(self) -> int:
        with _store_errors(self._name):
            size = self._filesystem.size(self._name)
        if size is None:
            raise OSError(f"{self._name}: its server does not say how long it is")
        return int(size)

    def read(self, offset: int, size: int) -> bytes:
        if not size:
            return b""
        with _store_errors(self._name):
            content = bytes(self._filesystem.cat_file(self._name, offset, offset + size))
        if len(content) > size:
            raise OSError(f"{self._name}: its server sends whole files only, and parts are asked for (HTTP ranges)")
        return content

    def close(self) -> None:
        """Connections are fsspec's to keep."""


class _Part:
    def __init__(self, whole: ByteRange, begin: int, size: int) -> None:
        self._whole, self._begin = whole, begin
        self.size = size  # as listed: asking a store for the size of the shard would cost a request for every clip

    def read(self, offset: int, size: int) -> bytes:
        return self._whole.read(self._begin + offset, max(min(size, self.size - offset), 0))


@contextmanager
def _store_errors(name: str) -> Iterator[None]:
    """Every store has errors of its own, most of them no `OSError`; here they are."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise OSError(f"{name}: {error or type(error).__name__}") from error


def _open_filesystem(url: str) -> tuple[Any, str]:
    try:
        filesystem, name = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be opened: {error}") from None  # a package for this kind of store is missing
    return filesystem, name


class Stream(io.RawIOBase):
    """A range of bytes as a file object for FFmpeg's demuxers."""

    def __init__(self, source: ByteRange) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, also beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there are bytes."""
        content = self._source.read(self._at, max(min(len(buffer), self._source.size - self._at), 0))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
