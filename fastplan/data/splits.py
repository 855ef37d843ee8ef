"""Train, validation and test videos of a run, from the configuration.

Validation videos decide (knees, paths); test videos are looked at once, after everything is decided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from fastplan.config import DataConfig
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.list_formats import PictureNames
from fastplan.data.lists import VideoList, read_videos
from fastplan.data.pictures import is_pattern
from fastplan.data.synthetic import TASKS, make_task, task_folder
from fastplan.errors import UserError

Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Splits:
    """The three sets of videos; `test` is None where the run has none. `origin` says in words where they come from."""

    train: VideoIndex
    val: VideoIndex
    test: VideoIndex | None
    origin: str


def open_splits(data: DataConfig, *, holdout: float, seed: int, threads: int, progress: Progress) -> Splits:
    """Find, make or carve the videos of a run.

    holdout: fraction of the training videos that decide where there is no validation set. progress: called as
    progress(title, total) at the beginning of long work, returns what to call after each step.
    Raises `UserError` for data that cannot be used.
    """
    cache = cache_dir(data)

    def index_of(listed: VideoList, title: str) -> VideoIndex:
        step = progress(f"Probing {title}", listed.files)
        return build_index(
            listed, cache_dir=cache / "index", threads=threads, on_video=step, limit_s=data.probe_limit_s
        )

    if data.train is None:
        total = sum(getattr(TASKS[data.embedded], split) for split in ("train", "val", "test"))
        folder = task_folder(data.embedded, cache / "tasks")
        if not folder.exists():
            step = progress("Making the embedded videos", total)
            make_task(data.embedded, cache / "tasks", workers=threads, on_video=step)
        parts = {
            split: index_of(list_videos(folder / split, data), f"{split} videos") for split in ("train", "val", "test")
        }
        return Splits(parts["train"], parts["val"], parts["test"], f"embedded task '{data.embedded}'")

    sources = {"training": data.train, "validation": data.val, "test": data.test}
    listed = {name: list_videos(source, data) for name, source in sources.items() if source}  # before hours of probing
    for name, videos in listed.items():
        _check_classes(name, videos.classes, listed["training"].classes)
    train = index_of(listed["training"], "training videos")
    origin = data.train
    test = index_of(listed["test"], "test videos") if data.test else None
    if test is None and data.holdout_test:
        kept, out = carve(train, data.holdout_test, seed=seed, purpose="test")
        test, train = train.take(out), _without(train, kept)
        origin += f", test {_who(test)}"
    if data.val:
        val = index_of(listed["validation"], "validation videos")
    else:
        kept, out = carve(train, holdout, seed=seed, purpose="validation")
        val, train = train.take(out), _without(train, kept)
        origin += f", validation {_who(val)}"
    return Splits(train, val, test, origin)


def carve(
    index: VideoIndex, fraction: float, *, seed: int, purpose: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions (kept, held out) of a split that never parts a group.

    Ungrouped videos are held out class by class, groups as wholes in an order drawn from the seed, until at least
    `fraction` of the videos is out. Raises `UserError` where a class would vanish from either side of the split.
    """
    rng = np.random.default_rng([seed, *purpose.encode()])
    groups = np.array(index.groups)
    out = np.zeros(len(index), bool)
    grouped = len(set(index.groups)) < len(index)
    pools = [np.arange(len(index))] if grouped else [np.flatnonzero(index.labels_N == k) for k in set(index.labels_N)]
    for pool in pools:
        wanted = max(round(fraction * len(pool)), 1)
        for group in rng.permutation(np.unique(groups[pool])):
            if out[pool].sum() >= wanted:
                break
            out[pool] |= groups[pool] == group
    for side, members in (("training", ~out), (purpose, out)):
        missing = set(range(len(index.classes))) - set(index.labels_N[members].tolist())
        if missing and (side == "training" or grouped):
            name = index.classes[min(missing)]
            own = "--val LIST" if purpose == "validation" else "data.test=LIST"
            raise UserError(
                f"holding out {fraction:g} of the videos for {purpose} leaves none of class '{name}' for {side}: "
                f"{_why_groups(groups) if grouped else ''}give more videos, another seed, or a list of its own ({own})"
            )
    return np.flatnonzero(~out), np.flatnonzero(out)


def list_videos(source: Path | str, data: DataConfig, *, labelled: bool = True) -> VideoList:
    """The videos of one source, read as the configuration says. labelled: as in `read_videos`."""
    if not is_pattern(data.picture_pattern):
        raise UserError(f"data.picture_pattern '{data.picture_pattern}' names no numbered file: img_{{:05d}}.jpg would")
    return read_videos(
        source,
        group_pattern=data.group_pattern if labelled else None,
        format=data.format,
        pictures=PictureNames(data.picture_pattern, data.picture_first),
        cache_dir=cache_dir(data) / "shards",
        labelled=labelled,
    )


def cache_dir(data: DataConfig) -> Path:
    """Where the index and the embedded task are kept."""
    return Path(data.cache) if data.cache else user_cache_path("fastplan")


def _check_classes(name: str, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raise `UserError` where a split has other classes than the training videos."""
    if found == wanted:
        return
    only = [f"only the {name} data has {_few(set(found) - set(wanted))}"] if set(found) - set(wanted) else []
    only += [f"only the training data has {_few(set(wanted) - set(found))}"] if set(wanted) - set(found) else []
    only = only or ["they come in another order"]
    raise UserError(
        f"the {name} data has {len(found)} classes and the training data {len(wanted)}; they must be the same, in the "
        f"same order: {'; '.join(only)}"
    )


def _few(names: set[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in sorted(names)[:5]) + more


def _why_groups(groups: npt.NDArray[np.str_]) -> str:
    """What keeps a grouped set of videos from being split."""
    names, counts = np.unique(groups, return_counts=True)
    many = f"are in {len(names)} groups" if len(names) > 1 else "are one group"
    return (
        f"the {len(groups)} videos {many}, the largest is '{names[counts.argmax()]}' with {counts.max()}, and none is "
        "parted; say which belong together (data.group_pattern, null for none, or the list's group column), "
    )


def _without(index: VideoIndex, kept: npt.NDArray[np.int64]) -> VideoIndex:
    part = index.take(kept)
    return VideoIndex(part.videos, part.labels_N, part.groups, part.classes, index.bad)


def _who(index: VideoIndex) -> str:
    groups = sorted(set(index.groups))
    named = len(groups) < len(index)
    return f"is groups {', '.join(groups)}" if named and len(groups) <= 8 else "held out of it"
