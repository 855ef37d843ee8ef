"""WebDataset shards: tar files in which `a/0001.mp4` and `a/0001.cls` (or `.json`) are one sample.

A shard is listed once: where each video lies in it, and its label. From then on a video is a range of bytes, read on
its own, so sampling and resuming are as exact as with files, on a disk or in an object store.
"""

import glob
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastplan.data.cache import make_cache
from fastplan.data.list_formats import VIDEO_SUFFIXES
from fastplan.data.storage import Place, Stream, is_remote
from fastplan.errors import UserError

_BUFFER_BYTES = 1 << 16
_LABEL_BYTES = 1 << 20
_LABEL_KEYS = ("label", "cls", "class")


class Member(NamedTuple):
    """A video in a shard. label: text or a whole number, as it stands there, empty where it has none."""

    place: Place
    label: str | int


def shard_names(source: str) -> list[str]:
    """The shards that `source` means: a tar file, `train-{000..009}.tar`, `train-*.tar`, or a folder of tar files.

    Empty where it means none of these. Raises `UserError` for compressed tar files, which cannot be read by range.
    """
    if re.search(r"\.(tar\.\w+|tgz)$", source):
        raise UserError(f"{source} is compressed: shards are read by range; write plain .tar files")
    if not source.endswith(".tar"):
        return sorted(glob.glob(os.path.join(glob.escape(source), "*.tar"))) if os.path.isdir(source) else []
    names = list(_expand(source))
    if is_remote(source) or len(names) > 1 or os.path.exists(source):
        return names
    return sorted(glob.glob(source)) or names


def shard_members(name: str, *, cache_dir: Path | None) -> list[Member]:
    """The videos of one shard, in its order. cache_dir: where the list is kept until the shard changes.

    Raises `UserError` where there is no such shard, where it is no tar file, or where a label cannot be read.
    """
    shard = Place(name).absolute()
    stamp = shard.stamp()
    if not stamp:
        more = ", or its server does not answer" if is_remote(name) else ""
        raise UserError(f"there is no shard {name}{more}")
    if cache_dir is None:
        return _list_members(shard)
    file = cache_dir / f"{hashlib.sha256(f'{shard.path} {stamp}'.encode()).hexdigest()[:24]}.json"
    try:
        return [Member(Place(*place), label) for place, label in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        members = _list_members(shard)  # not there yet, or damaged
    make_cache(cache_dir)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(members), encoding="utf-8")
    partial.replace(file)
    return members


def _list_members(shard: Place) -> list[Member]:
    videos: dict[str, Place] = {}
    labels: dict[str, str | int] = {}
    try:
        with (
            shard.open() as source,
            io.BufferedReader(Stream(source), _BUFFER_BYTES) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, kind = name.partition(".")
                key = f"{folder}/{key}"
                if not member.isfile():
                    continue
                if f".{kind.rpartition('.')[2].lower()}" in VIDEO_SUFFIXES:
                    path = f"{shard.path}/{member.name}"
                    videos[key] = Place(path, shard.path, member.offset_data, member.size)
                elif kind in ("cls", "json"):
                    labels[key] = _label(source.read(member.offset_data, min(member.size, _LABEL_BYTES)), kind, member)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{shard.path}: {error}") from None
    return [Member(place, labels.get(key, "")) for key, place in videos.items()]


def _label(content: bytes, kind: str, member: tarfile.TarInfo) -> str | int:
    text = content.decode("utf-8-sig").strip()
    if kind == "cls":
        return int(text) if re.fullmatch("[0-9]+", text) else text
    value: Any = json.loads(text)
    if isinstance(value, dict):
        value = next((value[name] for name in _LABEL_KEYS if name in value), None)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{member.name} names no class: {' or '.join(_LABEL_KEYS)} is wanted, a word or a number")
    return value


def _expand(pattern: str) -> Iterator[str]:
    """`a-{00..12}.tar` and `{a,b}.tar`, as shells write them."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    parts: Iterable[str] = found[1].split(",")
    if span:
        parts = (f"{number:0{len(span[1])}d}" for number in range(int(span[1]), int(span[2]) + 1))
    for part in parts:
        yield from _expand(pattern[: found.start()] + part + pattern[found.end() :])
