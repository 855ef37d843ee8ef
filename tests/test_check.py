"""`fastplan check` on real files, through the real command line."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastplan.check import CheckedVideos
from fastplan.data.decoders import decoder_of
from fastplan.data.index import build_index, probe_files
from fastplan.data.lists import VideoList, read_videos
from fastplan.data.places import Places
from fastplan.data.probe import Probed, probe_place
from fastplan.data.storage import Place
from fastplan.data.store import IndexStore, Rows
from fastplan.data.store_files import as_batch
from fastplan.data.synthetic import write_grey
from fastplan.data.video import Form
from fastplan.errors import UserError
from numbered_videos import write_numbered


def check(*words: object, cache: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fastplan.cli", "check", *map(str, words), f"data.cache={cache}", "data.threads=2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_shared_videos_agree_with_their_manifest(shared, tmp_path):
    """Frame counts, timing, keyframes and format of 27 real files, as another decoder counted them."""
    with (shared / "videos" / "manifest.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    done = check(shared / "videos", "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {Path(video["path"]).name: video for video in json.loads(done.stdout)["videos"]}
    assert set(found) == set(rows)
    for name, row in rows.items():
        video = found[name]
        counts = {int(row["frames_decoded"])} | ({165} if name == "mmaction2__test.avi" else set())
        assert video["frames"] in counts, name
        facts = (row["codec"], row["pix_fmt"], int(row["bytes"]), int(row["keyframes"]), row["vfr"] == "yes")
        assert (video["codec"], video["pixels"], video["bytes"], video["keyframes"], video["vfr"]) == facts, name
        assert video["fps"] == pytest.approx(float(row["avg_fps"]), abs=0.01), name
        assert video["duration_s"] == pytest.approx(float(row["duration_s"]), abs=0.15), name
        assert (video["rotation"] - int(row["rotation"])) % 360 == 0, name
        assert video["stated_s"] == 0 or video["stated_s"] == pytest.approx(video["duration_s"], abs=0.6), name
    kinds = {(finding["kind"], name) for name, video in found.items() for finding in video["findings"]}
    assert {name for kind, name in kinds if kind == "short"} == {"decord__video_0.mov", "decord__video_90.mov"}
    assert ("unsupported", "imageio__cockatoo.mp4") in kinds and ("long GOP", "mmaction2__test.mp4") in kinds
    for video in found.values():
        for finding in video["findings"]:
            assert "\n" not in finding["advice"]
            if finding["advice"].startswith("ffmpeg"):
                assert shlex.split(finding["advice"])[2] == video["path"]


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Two classes; a video that is there twice, one that is cut off, one that is none, one with a name to quote."""
    root = tmp_path / "mixed"
    for label in ("go left", "stop"):
        for number in range(2):
            write_numbered(root / label / f"{number}.mp4", 24 + number + 5 * (label == "stop"))
    shutil.copy(root / "stop" / "0.mp4", root / "go left" / 'a "b" 7.mp4')
    (root / "stop" / "none.mp4").touch()
    whole = (root / "stop" / "1.mp4").read_bytes()
    (root / "go left" / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    return root


def test_a_folder_per_class_with_bad_files(mixed, tmp_path):
    done = check(mixed, "--span", "26", "--hash", "--fix-list", tmp_path / "clean.csv", cache=tmp_path / "cache")
    assert done.returncode == 1, done.stderr
    text = " ".join(done.stdout.split())
    assert (
        "bad: 2 of 7" in text
        and "go left/cut.mp4: cannot be decoded" in text
        and "stop/none.mp4: cannot be decoded (the file is empty) fetch it again, or" in text
    )
    assert "short: 2 of 7" in text and "0.mp4: 24 frames, a clip spans 26" in text
    assert "duplicate: 1 of 7" in text and "stop/0.mp4: the same content as" in text
    assert "7 files, 137 frames; 2 are left out" in text
    assert "5 videos" in done.stderr


def test_the_fix_list_can_be_trained_on(mixed, tmp_path):
    """Names of classes, groups and odd file names survive; what is bad is gone."""
    whole = build_index(read_videos(mixed), cache_dir=tmp_path / "cache", threads=1)
    for name in ("clean.csv", "clean.txt"):
        done = check(mixed, "--fix-list", tmp_path / name, cache=tmp_path / "cache")
        assert done.returncode == 1, done.stderr
        index = build_index(read_videos(tmp_path / name), cache_dir=tmp_path / "cache", threads=1)
        assert not index.bad and len(index) == 5
        assert index.classes == (("go left", "stop") if name == "clean.csv" else ("0", "1"))
        assert index.labels_N.tolist() == whole.labels_N.tolist()
        assert [video.path for video in index.videos] == [video.path for video in whole.videos]


def test_a_fix_list_keeps_names_that_begin_like_a_comment(tmp_path):
    """As HMDB51 has them, where the list lies beside them."""
    (tmp_path / "list.csv").write_text("path,label\n./#20_wave.mp4,wave\nb.mp4,run\n")
    for name in ("#20_wave.mp4", "b.mp4"):
        write_numbered(tmp_path / name, 20)
    done = check(tmp_path / "list.csv", "--fix-list", tmp_path / "clean.csv", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    listed = read_videos(tmp_path / "clean.csv")
    assert [path.name for path in listed.paths] == ["#20_wave.mp4", "b.mp4"] and listed.labels == (1, 0)


def test_a_segment_beyond_the_end_is_short(tmp_path):
    write_numbered(tmp_path / "a.mp4", 50)
    write_numbered(tmp_path / "b.mp4", 50)
    rate = probe_place(Place(str(tmp_path / "a.mp4"))).fps
    begin_s, end_s = 40 / rate, 100 / rate
    (tmp_path / "list.csv").write_text(f"path,label,begin_s,end_s\na.mp4,x,{begin_s},{end_s}\nb.mp4,y,{end_s},900\n")
    done = check(tmp_path / "list.csv", "--json", cache=tmp_path / "cache")
    findings = {Path(v["path"]).name: v["findings"] for v in json.loads(done.stdout)["videos"]}
    assert [finding["detail"].split(" in ")[0] for finding in findings["a.mp4"]] == ["10 frames"]
    assert [finding["detail"].split(" in ")[0] for finding in findings["b.mp4"]] == ["0 frames"]


def test_a_sheet_of_nothing_is_not_made(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    done = check(tmp_path / "a.mp4", "--show", "3", cache=tmp_path / "cache")
    assert done.returncode == 1 and "1 is left out" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] == "no fastplan-clips.html: there is no video that decodes"


def test_a_video_that_is_listed_twice(mixed, tmp_path):
    (tmp_path / "list.txt").write_text("mixed/stop/0.mp4 0\nmixed/stop/1.mp4 1\nmixed/stop/0.mp4 1\n")
    done = check(tmp_path / "list.txt", "--json", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    findings = {Path(v["path"]).name: [f["detail"] for f in v["findings"]] for v in json.loads(done.stdout)["videos"]}
    assert findings == {"0.mp4": ["listed 2 times, as 0, 1"], "1.mp4": []}


def test_a_flat_folder_and_a_single_video(tmp_path):
    for number in range(3):
        write_numbered(tmp_path / "flat" / f"{number}.mp4", 20 + number)
    done = check(tmp_path / "flat", "--json", "--fix-list", tmp_path / "list.txt", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    videos = json.loads(done.stdout)["videos"]
    assert [video["frames"] for video in videos] == [20, 21, 22] and "label" not in videos[0]
    assert (tmp_path / "list.txt").read_text() == "flat/0.mp4\nflat/1.mp4\nflat/2.mp4\n"
    one = check(tmp_path / "flat" / "1.mp4", "--json", cache=tmp_path / "cache")
    assert [video["frames"] for video in json.loads(one.stdout)["videos"]] == [21]


def test_names_are_shown_below_a_folder_that_is_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    write_numbered(tmp_path / "real" / "v.mp4", 20)
    (tmp_path / "link").symlink_to("real")
    done = check(tmp_path / "link", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "│ v.mp4 " in done.stdout, done.stdout


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for word, message in (
        ("empty", "has no videos"),
        ("gone", "there is no data at"),
        ("emtpy", f"did you mean {tmp_path / 'empty'}?"),
    ):
        done = check(tmp_path / word, cache=tmp_path / "cache")
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    write_numbered(tmp_path / "empty" / "a.mp4", 20)
    done = check(tmp_path / "empty", "--span", "0", cache=tmp_path / "cache")
    assert done.returncode == 2 and "--span is 0" in done.stderr
    done = check(tmp_path / "empty", "--show", "0", cache=tmp_path / "cache")
    assert done.returncode == 2 and "--show is 0" in done.stderr
    done = check(tmp_path / "empty", "--fix-list", tmp_path / "empty", cache=tmp_path / "cache")
    assert done.returncode == 2 and "empty cannot be written" in done.stderr and done.stderr.count("\n") == 1
    done = check(tmp_path / "empty", "--index", tmp_path / "empty" / "a.mp4", cache=tmp_path / "cache")
    assert done.returncode == 2 and "must end with .parquet" in done.stderr
    done = check(tmp_path / "empty", "data.picture_pattern=img.jpg", cache=tmp_path / "cache")
    assert done.returncode == 2 and "data.picture_pattern 'img.jpg' names no numbered file" in done.stderr


def test_findings_of_files_made_for_them(tmp_path):
    """A group of 90 frames, MPEG-TS, and a codec that NVDEC lacks, each found and nothing else."""
    grey_THW = np.random.default_rng(0).integers(0, 255, (90, 48, 48), np.uint8)
    write_grey(tmp_path / "whole.webm", grey_THW[:, ::2, ::2], encoder="libvpx-vp9")
    whole = (tmp_path / "whole.webm").read_bytes()
    (tmp_path / "cut.webm").write_bytes(whole[: len(whole) * 6 // 10])
    wanted = {
        "cut.webm": ["cut off"],
        "long.webm": ["long GOP"],
        "stream.ts": ["fallback"],
        "old.avi": ["unsupported"],
        "good.mp4": [],
    }
    write_grey(tmp_path / "long.webm", grey_THW, encoder="libvpx-vp9")
    write_grey(tmp_path / "stream.ts", grey_THW[:20], encoder="libx264")
    write_grey(tmp_path / "old.avi", grey_THW[:20], encoder="msmpeg4")
    write_grey(tmp_path / "good.mp4", grey_THW[:20], encoder="libx264")
    places = Places(Place(str(tmp_path / name)) for name in wanted)
    _, rows = probe_files(places, cache_dir=tmp_path / "cache", threads=1)
    listed = VideoList(places, (0,) * 5, tuple(wanted), ())
    found = list(CheckedVideos(listed, rows, span=16))
    assert {Path(one.row["path"]).name: [finding.kind for finding in one.findings] for one in found} == wanted
    (tmp_path / "no.mp4").write_bytes(whole[-300:])
    (tmp_path / "text.mp4").write_text("not found")
    for name in ("no.mp4", "text.mp4"):
        place = Place(str(tmp_path / name))
        rows = as_rows(tmp_path / name.removesuffix(".mp4"), [probe_place(place)])
        bad = CheckedVideos(VideoList(Places([place]), (0,), (name,), ()), rows, span=16)
        ((finding,),) = (one.findings for one in bad)
        assert "no header that FFmpeg knows" in finding.detail and "ffmpeg" not in finding.advice
    assert "-c copy" in found[2].findings[0].advice and "-pix_fmt yuv420p" in found[3].findings[0].advice


def as_rows(folder: Path, probed: list[Probed]) -> Rows:
    store = IndexStore(folder)
    with store.writer() as writer:
        for one in probed:
            writer.add(as_batch(one))
    return store.find(one.path for one in probed)


def test_unsupported_is_what_the_loader_does_not_give_to_nvdec(tmp_path):
    """One rule for both: whatever codec, depth and turn, a finding stands exactly where the host decoder reads."""
    names = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "prores")
    pixels = ("yuv420p", "yuvj420p", "yuv420p10le", "yuv422p", "yuv444p")
    forms = [
        Form(codec, depth, *turned, "")
        for codec in names
        for depth in pixels
        for turned in ((0, False), (90, False), (180, True))
    ]
    rows = as_rows(tmp_path, [Probed(f"/{n}.mp4", "", frames=20, **vars_of(form)) for n, form in enumerate(forms)])
    places = Places(Place(f"/{n}.mp4") for n in range(len(forms)))
    checked = CheckedVideos(VideoList(places, (0,) * len(places), tuple(places.paths), ()), rows, span=16)
    for form, one in zip(forms, checked, strict=True):
        on_host = decoder_of(form, on_gpu=True) == "host"
        assert [finding.kind for finding in one.findings] == ["unsupported"] * on_host, form
    assert {decoder_of(form, on_gpu=True) for form in forms} == {"host", "dali"}


def vars_of(form: Form) -> dict[str, Any]:
    return {name: value for name, value in form._asdict().items() if name != "fallback"}


def test_a_video_beside_the_class_folders(mixed, tmp_path):
    """To be looked at without classes, and a word that training refuses it, as it does."""
    shutil.copy(mixed / "stop" / "0.mp4", mixed / "loose.mp4")
    done = check(mixed, "--json", cache=tmp_path / "cache")
    assert "no classes, since loose.mp4 lies beside the folders: training would refuse this" in done.stderr
    videos = json.loads(done.stdout)["videos"]
    assert len(videos) == 8 and not any("label" in video for video in videos)
    with pytest.raises(UserError, match="has loose.mp4 beside its class folders"):
        read_videos(mixed)
