"""A thousand damaged files through the whole loader: no crash, no hang, and exactly the unreadable ones are skipped.

Half of them are damaged before they are indexed, half afterwards, while a run believes the index.
"""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_decode_exact import H264, VP9, write
from test_mutated_files import mutate

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.decode import DecodeError, decode_views
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.lost import LostClips
from fastplan.data.sampling import evaluation_samples, training_samples

FILES = 1000
LIMIT_S = 300
SOURCES = {
    "a.mp4": ("libx264", {**H264, "bf": "2"}),
    "b.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "c.webm": ("libvpx-vp9", VP9),
    "d.mkv": ("libx264", H264),
}
KINDS = ["bit flips", "truncated", "header of another file", "zero length", "wrong extension", "folder", "intact"]
SPEC = ClipSpec(2, 2, 1, 24)
PLAIN = AugmentConfig(jitter=0.0, grey=0.0, blur=0.0)


def spoil(file: Path, kind: str, other: bytes, rng: np.random.Generator) -> None:
    if kind == "zero length":
        file.write_bytes(b"")
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind not in ("wrong extension", "intact"):
        file.write_bytes(mutate(kind, file.read_bytes(), other, rng))


def work(sources: Path, folder: Path, report: Path) -> None:
    """Write, index, spoil, train and evaluate; what happened goes to the report."""
    rng = np.random.default_rng(0)
    names = list(SOURCES)
    contents = [(sources / name).read_bytes() for name in names]
    lines, late, kind_of = [], [], {}
    for number in range(FILES):
        source, kind = number % len(names), KINDS[number // len(names) % len(KINDS)]
        suffix = Path(names[(source + 1) % len(names)] if kind == "wrong extension" else names[source]).suffix
        file = folder / f"{number:04}{suffix}"
        file.write_bytes(contents[source])
        kind_of[str(file)] = kind
        lines.append(f"{file.name} {number % 2}")
        if number < FILES // 2:
            spoil(file, kind, contents[source - 1], rng)
        else:
            late.append((file, kind, contents[source - 1]))
    (folder / "list.txt").write_text("\n".join(lines))
    index = build_index(read_videos(folder / "list.txt"), cache_dir=folder / "cache", threads=2, limit_s=60)
    for file, kind, other in late:
        spoil(file, kind, other, rng)

    lost = LostClips(1.0)
    loader = ClipLoader(
        index, PLAIN, max_batch=16, threads=2, decoder="host", device=torch.device("cpu"), timeout_s=30.0, lost=lost
    )
    loader.configure(SPEC, 16)
    samples = training_samples(index, SPEC, PLAIN, seed=0, stream="s", epoch=0)
    trained = sum(len(batch.labels_N) for batch in loader.epoch(samples))
    replaced = [clip.path for clip in lost.clips if clip.instead is not None]
    views = evaluation_samples(index, SPEC, views=2)
    seen = sorted({n for batch in loader.epoch(views) for n in batch.videos_N.tolist()})
    left_out = [clip.path for clip in lost.clips if clip.instead is None]
    loader.close()
    found = {
        "kinds": kind_of,
        "bad": [video.path for video in index.bad],
        "videos": [video.path for video in index.videos],
        "trained": trained,
        "replaced": replaced,
        "seen": seen,
        "left_out": left_out,
        "reasons": [clip.reason for clip in lost.clips],
        "unreadable": {"train": unreadable(index, samples), "views": unreadable(index, views)},
        "late": [str(file) for file, _, _ in late],
    }
    report.write_text(json.dumps(found))


def unreadable(index, samples) -> list[str]:
    """Videos of which the samples cannot be decoded, asked one by one."""
    paths = []
    for number in sorted(set(samples.videos_M.tolist())):
        rows = samples.videos_M == number
        try:
            decode_views(index.videos[number], samples.frames_MT[rows], samples.changes.crops_M4[rows], size=8)
        except DecodeError:
            paths.append(index.videos[number].path)
    return paths


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    sources, folder, report = tmp_path / "sources", tmp_path / "videos", tmp_path / "report.json"
    sources.mkdir(), folder.mkdir()
    for name, (encoder, options) in SOURCES.items():
        write(sources / name, encoder, frames=14, **options)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(sources, folder, report))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail(f"more than {LIMIT_S} s")
    assert process.exitcode == 0, f"exit status {process.exitcode}"
    found = json.loads(report.read_text())
    kinds, videos, late = found["kinds"], found["videos"], set(found["late"])
    assert len(kinds) == FILES == len(videos) + len(found["bad"])
    assert found["trained"] == len(videos), "every place of the epoch holds a clip"
    assert sorted(found["replaced"]) == found["unreadable"]["train"]
    assert sorted(found["left_out"]) == found["unreadable"]["views"]
    assert [videos[n] for n in found["seen"]] == [path for path in videos if path not in set(found["left_out"])]
    assert all(found["reasons"])
    lost = set(found["replaced"]) | set(found["left_out"])
    assert len(lost - late) <= 5, "what the probe passed can nearly always be read, as long as nobody touches it"
    assert all(kinds[path] in ("bit flips", "truncated", "header of another file") for path in lost - late)
    bad = {path.removesuffix("/img_{:05d}.jpg") for path in found["bad"]}  # a folder is one of pictures, without any
    for path, kind in kinds.items():
        skipped = path in (lost if path in late else bad)
        if kind in ("zero length", "folder"):
            assert skipped, (path, kind)
        elif kind in ("wrong extension", "intact"):
            assert not skipped, (path, kind)
    by_kind = {kind: sum(kinds[path] == kind for path in lost) for kind in KINDS}
    assert by_kind["truncated"] == sum(kinds[path] == "truncated" for path in late), "a shorter file is another file"
    assert by_kind["bit flips"] > 10 and by_kind["header of another file"] > 10
    shutil.rmtree(folder)
