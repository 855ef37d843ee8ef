"""Probing real files, the cache, and splits that never part a group."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from fastplan.config import DataConfig
from fastplan.data.index import BadVideo, VideoIndex, VideoInfo, build_index, probe
from fastplan.data.lists import read_videos
from fastplan.data.splits import carve, open_splits
from fastplan.errors import UserError


def test_numbered_videos(numbered, tmp_path):
    index = build_index(read_videos(numbered), cache_dir=tmp_path, threads=2)
    for video in index.videos:
        frames = int(Path(video.path).stem.split("_")[1])
        assert (video.frames, video.width, video.height, video.codec, video.fps) == (frames, 48, 48, "h264", 25.0)
    assert index.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.bad == ()


def test_every_shared_video_has_the_frames_of_its_manifest(shared):
    """Frame counts of a full decode, of containers whose headers say less, more or nothing."""
    with (shared / "videos" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 20
    for row in rows:
        found = probe(shared / "videos" / row["file"])
        assert isinstance(found, VideoInfo), found
        counts = {int(row["frames_decoded"])} | ({165} if row["file"] == "mmaction2__test.avi" else set())
        assert found.frames in counts, row["file"]
        turned = int(row["rotation"]) % 180 != 0
        size = (int(row["width"]), int(row["height"]))
        assert (found.width, found.height) == (size[::-1] if turned else size), row["file"]


def test_bad_files_are_left_out_counted_and_listed(numbered, tmp_path):
    data = tmp_path / "data"
    for label in ("a", "b"):
        (data / label).mkdir(parents=True)
        for number, file in enumerate(sorted((numbered / "class0").iterdir())):
            (data / label / f"good{number}.mp4").write_bytes(file.read_bytes())
    (data / "a" / "empty.mp4").touch()
    (data / "a" / "text.mp4").write_text("not a video at all")
    whole = next((numbered / "class1").iterdir()).read_bytes()
    (data / "b" / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (data / "b" / "gone.mp4").symlink_to(data / "nothing.mp4")
    listed = read_videos(data)
    index = build_index(listed, cache_dir=tmp_path / "cache", threads=2)
    assert len(index) == 6
    assert {Path(bad.path).name for bad in index.bad} == {"empty.mp4", "text.mp4", "cut.mp4", "gone.mp4"}
    assert all(bad.reason for bad in index.bad)
    assert isinstance(probe(data / "b" / "gone.mp4"), BadVideo)
    assert probe(data / "b").reason == "a folder, not a file"


def test_a_class_without_a_readable_video_is_an_error(numbered, tmp_path):
    data = tmp_path / "data"
    (data / "good").mkdir(parents=True)
    (data / "bad").mkdir()
    (data / "good" / "a.mp4").write_bytes(next((numbered / "class0").iterdir()).read_bytes())
    (data / "bad" / "b.mp4").write_text("nothing")
    with pytest.raises(UserError, match=r"class 'bad' has no video that decodes; the first: .*b\.mp4"):
        build_index(read_videos(data), cache_dir=tmp_path, threads=1)


def test_the_cache_holds_until_a_file_changes(numbered, tmp_path):
    """A cached entry is served even where the file could no longer be decoded; a changed one is probed again."""
    data = tmp_path / "data"
    for label in ("a", "b"):
        (data / label).mkdir(parents=True)
        for file in (numbered / "class0").iterdir():
            (data / label / file.name).write_bytes(file.read_bytes())
    listed = read_videos(data)
    first = build_index(listed, cache_dir=tmp_path / "cache", threads=2)
    victim = Path(first.videos[0].path)
    status, size = victim.stat(), victim.stat().st_size
    victim.write_bytes(b"\0" * size)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    same = build_index(listed, cache_dir=tmp_path / "cache", threads=2)
    assert same.videos == first.videos
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = build_index(listed, cache_dir=tmp_path / "cache", threads=2)
    assert [bad.path for bad in changed.bad] == [str(victim)]


def index_of(labels, groups) -> VideoIndex:
    video = VideoInfo("v.mp4", 10, 25.0, 8, 8, "h264", 0, 0, 1)
    return VideoIndex(
        tuple(video for _ in labels), np.array(labels), tuple(groups), tuple(str(k) for k in range(max(labels) + 1))
    )


def test_a_split_by_class_takes_the_share_of_every_class():
    index = index_of([k % 4 for k in range(80)], [str(i) for i in range(80)])
    kept, out = carve(index, 0.25, seed=0, purpose="validation")
    assert sorted([*kept, *out]) == list(range(80))
    assert np.bincount(index.labels_N[out]).tolist() == [5, 5, 5, 5]
    again = carve(index, 0.25, seed=0, purpose="validation")[1]
    other = carve(index, 0.25, seed=1, purpose="validation")[1]
    assert out.tolist() == again.tolist() != other.tolist()


def test_a_split_never_parts_a_group():
    index = index_of([k % 4 for k in range(72)], [f"actor{i // 8}" for i in range(72)])
    kept, out = carve(index, 0.2, seed=3, purpose="validation")
    groups = np.array(index.groups)
    assert not set(groups[kept]) & set(groups[out])
    assert len(set(groups[out])) == 2


def test_a_split_that_empties_a_class_is_an_error():
    index = index_of([0, 0, 1, 1], ["a", "a", "b", "b"])
    with pytest.raises(UserError, match="leaves none of class"):
        carve(index, 0.5, seed=0, purpose="validation")


def test_where_the_splits_come_from_is_said_without_counts(numbered, tmp_path):
    def origin(source):
        data = DataConfig(train=str(source), cache=str(tmp_path))
        return open_splits(data, holdout=0.3, seed=0, threads=1, progress=lambda title, total: lambda: None).origin

    assert origin(numbered) == f"{numbered}, validation held out of it"
    videos = [sorted(numbered.glob(f"class{label}/*.mp4")) for label in range(2)]
    rows = [f"{file},{label},{who}" for label in range(2) for who, file in zip("xyz", videos[label], strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(("path,label,group", *rows)))
    assert origin(tmp_path / "list.csv").rpartition(", ")[2] in [f"validation is groups {who}" for who in "xyz"]
