"""Videos that are not a file of their own: segments, folders of pictures, members of tar shards, here or elsewhere."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig, DataConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.decode import DecodeError, decode_clip
from fastplan.data.index import VideoIndex, build_index, probe_files
from fastplan.data.list_formats import PictureNames
from fastplan.data.lists import VideoList, read_videos
from fastplan.data.probe import probe_place, video_of
from fastplan.data.sampling import evaluation_samples, training_samples
from fastplan.data.shards import shard_members, shard_names
from fastplan.data.splits import open_splits
from fastplan.errors import UserError
from numbered_videos import read_numbers, write_numbered

SPEC = ClipSpec.consecutive(8, stride=2, size=32)
PLAIN = AugmentConfig(jitter=0, flip=0, scale=(1.0, 1.0), ratio=(1.0, 1.0))


def numbers(clip_THWC: np.ndarray) -> list[int]:
    return read_numbers(clip_THWC[..., 0].astype(float))


def indexed(listed: VideoList, tmp_path: Path) -> VideoIndex:
    return build_index(listed, cache_dir=tmp_path / "cache", threads=2)


def loaded(index: VideoIndex) -> list[tuple[int, list[int], list[int]]]:
    """(video, the frames that were planned, the numbers that they show) of one epoch through the loader."""
    loader = ClipLoader(index, PLAIN, max_batch=4, threads=2, decoder="host", device=torch.device("cpu"))
    loader.configure(SPEC, 4)
    samples = training_samples(index, SPEC, PLAIN, seed=0, stream="s", epoch=0)
    try:
        clips = [clip_CTHW for batch in loader.epoch(samples) for clip_CTHW in batch.clips_NCTHW]
    finally:
        loader.close()
    shown = [read_numbers(clip_CTHW[0].numpy()) for clip_CTHW in clips]
    return list(zip(samples.videos_M.tolist(), samples.frames_MT.tolist(), shown, strict=True))


# Segments


def test_clips_are_drawn_inside_their_segment(tmp_path: Path) -> None:
    """Segments of two videos at 25 frames a second, one of them with no packet table and irregular timestamps."""
    write_numbered(tmp_path / "v_a.mp4", 200)
    write_uneven(tmp_path / "v_b.mkv", 120)
    annotations = {
        "a": [([0.4, 1.6], "one"), ([1.6, 7.99], "two"), ([100, 110], "two")],
        "b": [([2.0, 3.0], "one")],
    }
    database = {
        name: {"subset": "training", "annotations": [{"segment": list(s), "label": label} for s, label in rows]}
        for name, rows in annotations.items()
    }
    (tmp_path / "net.json").write_text(json.dumps({"database": database}))
    index = indexed(read_videos(tmp_path / "net.json"), tmp_path)
    assert index.first_N.tolist()[:2] == [10, 40] and index.frames_N.tolist()[:2] == [30, 160]
    uneven = [number for number, time_s in enumerate(uneven_times_s(120)) if 2.0 <= time_s < 3.0]
    assert (index.first_N[2], index.frames_N[2]) == (uneven[0], len(uneven))
    (outside,) = index.bad
    assert outside.path.endswith("v_a.mp4 100 to 110 s") and "8" in outside.reason
    assert numbers(decode_clip(index.videos[0], np.array([0, 29, 3]))) == [10, 39, 13]
    with pytest.raises(DecodeError, match="frames 30 to 30 of 30"):
        decode_clip(index.videos[0], np.array([30]))
    for video, planned, shown in loaded(index):
        assert shown == [int(index.first_N[video]) + frame for frame in planned]
    views = evaluation_samples(index, SPEC, views=3)
    last = views.frames_MT[views.videos_M == 0]
    assert last.min() >= 0 and last.max() < 30


def uneven_times_s(frames: int) -> np.ndarray:
    """Every third interval is three times as long."""
    return np.concatenate([[0], np.cumsum(np.where(np.arange(frames - 1) % 3 == 2, 0.06, 0.02))])


def write_uneven(file: Path, frames: int) -> None:
    plain = file.with_suffix(".mp4")
    write_numbered(plain, frames)
    times = [round(time_s * 1000) for time_s in uneven_times_s(frames)]
    with av.open(str(plain)) as source, av.open(str(file), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        step = None
        for packet in source.demux(stream):
            if packet.size:
                step = step or packet.duration
                place, decoded = packet.pts // step, packet.dts // step
                packet.time_base = Fraction(1, 1000)
                packet.pts, packet.dts = times[place], times[max(decoded, 0)]
                packet.stream = copy
                target.mux(packet)
    plain.unlink()


# Folders of pictures


def write_pictures(folder: Path, count: int, *, pattern: str = "img_{:05d}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True)
    video = folder.with_suffix(".mp4")
    write_numbered(video, count)
    with av.open(str(video)) as source:
        for number, frame in enumerate(source.decode(video=0)):
            name = str(folder / pattern.format(first + number))
            codec, pixels = ("png", "rgb24") if pattern.endswith("png") else ("mjpeg", "yuvj420p")
            with av.open(name, "w", format="image2", options={"update": "1"}) as target:
                stream = target.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
                target.mux(stream.encode(frame.reformat(format=pixels)))
                target.mux(stream.encode())
    video.unlink()


def test_folders_of_pictures(tmp_path: Path) -> None:
    """By class and by list, with a gap, a broken picture and none at all among them."""
    for number, name in enumerate(("run/a", "run/b", "walk/c {} 100%d", "walk/gap", "walk/broken")):
        write_pictures(tmp_path / "frames" / name, 12 + number)
    (tmp_path / "frames" / "walk" / "gap" / "img_00006.jpg").unlink()
    (tmp_path / "frames" / "walk" / "broken" / "img_00004.jpg").write_bytes(b"no picture")
    index = indexed(read_videos(tmp_path / "frames"), tmp_path)
    assert index.frames_N.tolist() == [12, 13, 14] and index.labels_N.tolist() == [0, 0, 1]
    reasons = {Path(bad.path).parent.name: bad.reason for bad in index.bad}
    assert "img_00006.jpg is missing, img_00007.jpg is there" in reasons["gap"] and set(reasons) == {"gap", "broken"}
    assert numbers(decode_clip(index.videos[2], np.array([13, 0, 5, 5]))) == [13, 0, 5, 5]
    assert all(shown == planned for _, planned, shown in loaded(index))

    listed = tmp_path / "train.txt"
    listed.write_text("frames/run/a 12 0\nframes/walk/c {} 100%d 14 1\nframes/walk/gone 9 1")
    again = indexed(read_videos(listed), tmp_path)
    assert [video.path for video in again.videos] == [index.videos[0].path, index.videos[2].path]
    assert [bad.reason for bad in again.bad] == ["no such file"]

    (tmp_path / "frames" / "run" / "a" / "img_00013.jpg").write_bytes(
        (tmp_path / "frames" / "run" / "a" / "img_00001.jpg").read_bytes()
    )
    assert indexed(read_videos(listed), tmp_path).frames_N.tolist() == [13, 14]


def test_other_names_of_pictures_through_the_configuration(tmp_path: Path) -> None:
    for number, name in enumerate(("78687", "42326")):
        write_pictures(tmp_path / "frames" / name, 10 + number, pattern="{:06d}.png", first=0)
    rows = [{"id": "78687", "template": "Holding [something]"}, {"id": "42326", "template": "Pushing [something]"}]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "labels" / "labels.json").write_text('{"Pushing something": "0", "Holding something": "1"}')
    config = DataConfig(
        train=str(tmp_path / "labels" / "train.json"),
        val=str(tmp_path / "labels" / "train.json"),
        picture_pattern="{:06d}.png",
        picture_first=0,
        cache=str(tmp_path / "cache"),
    )
    splits = open_splits(config, holdout=0, seed=0, threads=1, progress=lambda title, total: lambda: None)
    assert splits.train.frames_N.tolist() == [10, 11] and splits.train.labels_N.tolist() == [1, 0]
    assert numbers(decode_clip(splits.train.videos[1], np.array([0, 10]))) == [0, 10]
    for name in ("78687", "42326"):
        shutil.move(tmp_path / "frames" / name, tmp_path / "by class" / name / name)
    with pytest.raises(UserError, match="pictures would be named img_{:05d}.jpg, from 1"):
        read_videos(tmp_path / "by class", pictures=PictureNames())


@pytest.mark.parametrize(("begins", "first", "then", "frames"), [(0, 1, 0, 10), (1, 0, 1, 10), (1, 1, 3, 8)])
def test_another_first_picture_is_probed_anew(tmp_path: Path, begins: int, first: int, then: int, frames: int) -> None:
    """The index does not answer for a number that was not asked for: neither with too few frames nor with `bad`."""
    for name in ("a", "b"):
        write_pictures(tmp_path / "frames" / name, 10, first=begins)
    (tmp_path / "list.txt").write_text("frames/a 0\nframes/b 1\n")
    for number in (first, then):
        listed = read_videos(tmp_path / "list.txt", pictures=PictureNames(first=number))
        _, rows = probe_files(listed.places, cache_dir=tmp_path / "cache", threads=1)
    assert rows.table().select(["bad", "first", "frames"]).to_pylist() == [
        {"bad": "", "first": then, "frames": frames},
        {"bad": "", "first": then, "frames": frames},
    ]


def test_a_list_may_name_videos_by_url(tmp_path: Path) -> None:
    write_numbered(tmp_path / "videos" / "a.mp4", 20)
    write_numbered(tmp_path / "videos" / "b.mp4", 30)
    url = f"file://{tmp_path}/videos"
    (tmp_path / "list.txt").write_text(f"{url}/a.mp4 0\n{url}/b.mp4 30 1\n")
    (tmp_path / "list.csv").write_text(f"path,label\n{url}/a.mp4,left\n{url}/b.mp4,right\n")
    for name in ("list.txt", "list.csv"):
        index = indexed(read_videos(tmp_path / name), tmp_path)
        assert [video.path for video in index.videos] == [f"{url}/a.mp4", f"{url}/b.mp4"]
        assert index.frames_N.tolist() == [20, 30] and index.labels_N.tolist() == [0, 1]
        assert numbers(decode_clip(index.videos[1], np.array([29, 0]))) == [29, 0]


# Shards


def write_shard(file: Path, samples: dict[str, dict[str, bytes]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for key, parts in samples.items():
            for kind, content in parts.items():
                entry = tarfile.TarInfo(f"{key}.{kind}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of three videos: MP4 and WebM with packet tables, MPEG-TS through the demuxer, one that is none."""
    folder = tmp_path / "shards"
    content = {}
    for name, frames in (("a.mp4", 40), ("b.webm", 50), ("c.ts", 60)):
        encoder = "libvpx-vp9" if name.endswith("webm") else "libx264"
        write_numbered(tmp_path / name, frames, encoder=encoder)
        content[name] = (tmp_path / name).read_bytes()
    write_shard(
        folder / "train-000.tar",
        {
            "x/0001": {"mp4": content["a.mp4"], "cls": b"1\n", "txt": b"a caption"},
            "x/0002": {"json": b'{"label": 0, "caption": "b"}', "webm": content["b.webm"]},
        },
    )
    write_shard(
        folder / "train-001.tar",
        {
            "x/0001": {"ts": content["c.ts"], "cls": b"0"},
            "x/0003": {"mp4": b"no video", "cls": b"1"},
        },
    )
    return folder


@pytest.mark.parametrize("where", [str, lambda folder: f"file://{folder}"], ids=["disk", "fsspec"])
def test_shards_are_read_like_files(shards: Path, tmp_path: Path, where: Callable[[Path], str]) -> None:
    """The same frames as from files, by packets and by demuxer, whole epochs through the loader."""
    listed = read_videos(f"{where(shards)}/train-{{000..001}}.tar", cache_dir=tmp_path / "lists")
    index = indexed(listed, tmp_path)
    assert index.frames_N.tolist() == [40, 50, 60] and index.labels_N.tolist() == [1, 0, 0]
    assert [Path(video.path).name for video in index.videos] == ["0001.mp4", "0002.webm", "0001.ts"]
    assert [video.table is not None for video in index.videos] == [True, True, False]
    (bad,) = index.bad
    assert bad.path.endswith("train-001.tar/x/0003.mp4")
    for video, name in zip(index.videos, ("a.mp4", "b.webm", "c.ts"), strict=True):
        frames_T = np.array([video.frames - 1, 0, 17, 17])
        alone = indexed(read_videos(tmp_path / name, labelled=False), tmp_path).videos[0] if name else None
        assert (decode_clip(video, frames_T) == decode_clip(alone, frames_T)).all()
        assert numbers(decode_clip(video, frames_T)) == frames_T.tolist()
    first = loaded(index)
    assert sorted(video for video, _, _ in first) == [0, 1, 2]
    assert all(shown == planned for _, planned, shown in first) and loaded(indexed(listed, tmp_path)) == first


def test_shards_are_listed_once(shards: Path, tmp_path: Path) -> None:
    name = str(shards / "train-000.tar")
    members = shard_members(name, cache_dir=tmp_path / "lists")
    (kept,) = (tmp_path / "lists").iterdir()
    kept.write_text(kept.read_text().replace("0001.mp4", "kept.mp4"))
    assert [Path(m.place.path).name for m in shard_members(name, cache_dir=tmp_path / "lists")] == [
        "kept.mp4",
        "0002.webm",
    ]
    kept.write_text("damaged")
    assert shard_members(name, cache_dir=tmp_path / "lists") == members
    write_shard(shards / "train-000.tar", {"x/9": {"mp4": b"other", "cls": b"jump"}})
    assert [m.label for m in shard_members(name, cache_dir=tmp_path / "lists")] == ["jump"]


def test_shards_without_labels_may_be_looked_at(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"1": {"mp4": b"x", "cls": b"0"}, "2": {"mp4": b"x", "txt": b"a caption"}})
    found = read_videos(tmp_path / "a.tar", labelled=False)
    assert [path.name for path in found.paths] == ["1.mp4", "2.mp4"] and found.classes == ()


def test_names_of_shards(shards: Path) -> None:
    both = [str(shards / "train-000.tar"), str(shards / "train-001.tar")]
    for source in (
        str(shards),
        f"{shards}/train-{{000..001}}.tar",
        f"{shards}/train-*.tar",
        f"{shards}/train-00{{0,1}}.tar",
    ):
        assert shard_names(source) == both, source
    assert shard_names("s3://bucket/t-{8..11}.tar") == [f"s3://bucket/t-{k}.tar" for k in (8, 9, 10, 11)]
    assert shard_names("videos/") == [] and shard_names("list.txt") == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"a": {"mp4": b"x"}}, r"a\.mp4 has no label: a \.cls or \.json of the same name"),
        ({"a": {"mp4": b"x", "json": b'{"caption": "c"}'}}, r"a\.json names no class: label or cls or class is wanted"),
        ({"a": {"mp4": b"x", "json": b"{"}}, "Expecting property name"),
        ({"a": {"txt": b"x"}}, "hold no videos|holds no videos"),
        ({"a": {"mp4": b"x", "cls": b"0"}, "b": {"mp4": b"x", "cls": b"2"}}, "labels up to 2 but no video of class 1"),
    ],
)
def test_wrong_shards(tmp_path: Path, samples: dict, message: str) -> None:
    write_shard(tmp_path / "a.tar", samples)
    with pytest.raises(UserError, match=message):
        read_videos(tmp_path / "a.tar")


def test_shards_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no tar file at all" * 100)
    with pytest.raises(UserError, match=r"text\.tar"):
        read_videos(tmp_path / "text.tar")
    with pytest.raises(UserError, match="there is no shard"):
        read_videos(tmp_path / "gone.tar")
    with pytest.raises(UserError, match="compressed"):
        read_videos(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match="cannot be opened: "):
        read_videos("nowhere://bucket/a.tar")


def test_a_clip_asks_a_store_for_its_own_bytes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a shard of 31 videos in a store that counts: one request, within the video, and nothing about the shard."""
    write_numbered(tmp_path / "a.mp4", 64)
    content = (tmp_path / "a.mp4").read_bytes()
    write_shard(tmp_path / "a.tar", {f"{k:02d}": {"mp4": content, "cls": b"%d" % (k % 2)} for k in range(31)})
    fsspec.filesystem("memory").pipe("/a.tar", (tmp_path / "a.tar").read_bytes())
    place = shard_members("memory://a.tar", cache_dir=None)[17].place
    video = video_of(vars(found := probe_place(place)), lambda: found.table)
    asked: list[tuple[int, int]] = []
    read = MemoryFileSystem.cat_file

    def counting(self, path, start=None, end=None, **rest):
        asked.append((start, end))
        return read(self, path, start, end, **rest)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counting)
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: pytest.fail("asked about the shard"))
    assert numbers(decode_clip(video, np.arange(20, 28))) == list(range(20, 28))
    ((start, end),) = asked
    assert place.begin <= start < end <= place.begin + place.size == place.begin + len(content)
