"""Files that break, vanish or hang while a run reads them: replaced, counted, named, limited; never waited for."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data import fetching
from fastplan.data.batch import ClipLoader
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.sampling import evaluation_samples, training_samples
from fastplan.errors import UserError
from fastplan.rundir import RunDir
from numbered_videos import write_numbered

CPU = torch.device("cpu")
PLAIN = AugmentConfig()
SPEC = ClipSpec(1, 4, 1, 24)
VIDEOS = 12


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for number in range(VIDEOS):
        write_numbered(root / f"c{number % 2}" / f"v{number:02}.mp4", 20 + number)
    return root


@pytest.fixture
def folder(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "videos"))


@pytest.fixture
def index(folder, tmp_path) -> VideoIndex:
    return build_index(read_videos(folder), cache_dir=tmp_path / "cache", threads=1)


def loader_of(index, lost=None, **options) -> ClipLoader:
    options = {"max_batch": 4, "threads": 2, "decoder": "host", "device": CPU, "timeout_s": 20.0, **options}
    loader = ClipLoader(index, PLAIN, lost=LostClips(0.5) if lost is None else lost, **options)
    loader.configure(SPEC, 3)
    return loader


def train(loader: ClipLoader, epoch: int = 0):
    samples = training_samples(loader.index, SPEC, PLAIN, seed=2, stream="s", epoch=epoch)
    return samples, list(loader.epoch(samples))


def breakages(folder: Path) -> dict[str, str]:
    """Three videos spoilt after they were indexed, and a word of each reason."""
    (folder / "c0" / "v02.mp4").unlink()
    (folder / "c1" / "v05.mp4").write_bytes((folder / "c1" / "v05.mp4").read_bytes()[:-500])
    (folder / "c0" / "v08.mp4").unlink()
    (folder / "c0" / "v08.mp4").mkdir()
    return {
        "v02.mp4": "No such file",
        "v05.mp4": "changed since it was indexed",
        "v08.mp4": "changed since it was indexed",
    }


def test_a_broken_clip_is_replaced_by_another_of_its_epoch(folder, index):
    intact_samples, intact = train(loader_of(index))
    broken = breakages(folder)
    loader = loader_of(index, lost := LostClips(0.5))
    samples, batches = train(loader)
    assert [len(b.labels_N) for b in batches] == [3] * 4, "batches keep their size"
    assert np.array_equal(samples.videos_M, intact_samples.videos_M)
    videos = torch.cat([b.videos_N for b in batches])
    clips = torch.cat([b.clips_NCTHW for b in batches])
    whole = torch.cat([b.clips_NCTHW for b in intact])
    labels = torch.cat([b.labels_N for b in batches])
    taken = {clip.place: clip.instead for clip in lost.clips}
    for place, video in enumerate(samples.videos_M):
        name = Path(index.videos[video].path).name
        assert (place in taken) == (name in broken)
        source = taken.get(place, place)
        assert torch.equal(clips[place], whole[source]), "the substitute is a sample of this epoch, as drawn there"
        assert videos[place] == samples.videos_M[source] and labels[place] == index.labels_N[videos[place]]
    assert {Path(p).name for p, why in lost.files.items() if broken[Path(p).name] in why} == set(broken)
    again = loader_of(index, other := LostClips(0.5))
    _, second = train(again)
    assert all(torch.equal(a.clips_NCTHW, b.clips_NCTHW) for a, b in zip(batches, second, strict=True))
    assert sorted(map(str, other.clips)) == sorted(map(str, lost.clips))


def test_a_resumed_run_loses_the_same_clips_though_the_files_are_back(folder, index, originals):
    breakages(folder)
    lost = LostClips(0.5)
    _, batches = train(loader_of(index, lost))
    shutil.rmtree(folder)
    shutil.copytree(originals, folder, copy_function=shutil.copy2)
    resumed = LostClips(0.5, before=lost.clips)
    _, second = train(loader_of(index, resumed))
    assert all(torch.equal(a.clips_NCTHW, b.clips_NCTHW) for a, b in zip(batches, second, strict=True))
    assert resumed.clips == lost.clips
    samples, third = train(loader_of(index, resumed), epoch=1)
    assert torch.cat([b.videos_N for b in third]).tolist() == samples.videos_M.tolist(), "a file that is back is used"


def test_what_a_run_has_lost_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.claim()
    assert rundir.load_lost() == []
    clips = [LostClip("a b.mp4", "gone", "s", 1, 7, 3), LostClip("ü.mp4", 'it "broke"', "evaluation", 0, 2, None)]
    for clip in clips:
        rundir.append_lost(clip)
    file = tmp_path / "run" / "lost.jsonl"
    file.write_text(file.read_text() + '{"path": "torn')
    assert rundir.load_lost() == clips
    rundir.append_lost(more := LostClip("c.mp4", "gone", "s", 2, 1, 0))
    assert rundir.load_lost() == [*clips, more]


@pytest.mark.parametrize("world", [2, 3])
def test_whoever_stands_in_is_the_same_for_any_number_of_processes(folder, index, world):
    """Every process loses its own places; put together they are the epoch, and the losses, of one process."""
    broken = breakages(folder)
    _, batches = train(loader_of(index, alone := LostClips(0.5)))
    together, clips = [None] * VIDEOS, []
    for rank in range(world):
        loader = loader_of(index, lost := LostClips(0.5))
        samples = training_samples(index, SPEC, PLAIN, seed=2, stream="s", epoch=0, rank=rank, world=world)
        found = torch.cat([batch.clips_NCTHW for batch in loader.epoch(samples)])
        for place, clip_CTHW in zip(samples.mine_K, found, strict=True):
            together[place] = clip_CTHW
        clips += lost.clips
    assert torch.equal(torch.stack(together), torch.cat([batch.clips_NCTHW for batch in batches]))
    assert sorted(clips, key=lambda clip: clip.place) == sorted(alone.clips, key=lambda clip: clip.place)
    assert len(clips) == len(broken)


def test_an_evaluation_leaves_broken_videos_out_and_names_each_once(folder, index):
    broken = breakages(folder)
    loader = loader_of(index, lost := LostClips(0.5))
    samples = evaluation_samples(index, SPEC, views=2, crops=3)
    for _ in range(2):
        seen = torch.cat([b.videos_N for b in loader.epoch(samples)]).tolist()
        good = [n for n, video in enumerate(index.videos) if Path(video.path).name not in broken]
        assert seen == sorted(good * 6)
    assert sorted(Path(clip.path).name for clip in lost.clips) == sorted(broken)
    assert all(clip.instead is None for clip in lost.clips)


def test_a_file_that_dalis_own_decoder_refuses_is_replaced_too(tmp_path):
    """DALI drops the whole batch and names no file; on the CPU with a codec that it decodes there."""
    for number in range(6):
        write_numbered(tmp_path / "v" / f"c{number % 2}" / f"v{number}.webm", 24, encoder="libvpx-vp9")
    index = build_index(read_videos(tmp_path / "v"), cache_dir=tmp_path / "cache", threads=1)
    broken = tmp_path / "v" / "c1" / "v3.webm"
    whole = broken.read_bytes()
    _, intact = train(loader_of(index, decoder="dali"))
    broken.write_bytes(whole[: len(whole) // 3] + bytes(len(whole) - len(whole) // 3))  # of the size in the index
    _, batches = train(loader_of(index, lost := LostClips(0.5), decoder="dali"))
    (clip,) = lost.clips
    assert clip.path == str(broken) and clip.reason
    clips, before = (torch.cat([b.clips_NCTHW for b in which]) for which in (batches, intact))
    sources = np.arange(6)
    sources[clip.place] = clip.instead
    assert torch.equal(clips, before[sources])
    for views in (1, 2):  # the host decoder reads several
        samples = evaluation_samples(index, SPEC, views=views)
        seen = torch.cat([b.videos_N for b in loader_of(index, decoder="dali").epoch(samples)]).tolist()
        assert seen == [n for n in range(6) for _ in range(views) if index.videos[n].path != str(broken)]


def test_too_many_bad_files_stop_the_run_with_their_list(folder, index):
    breakages(folder)
    with pytest.raises(UserError, match=r"3 of 12 videos cannot be read, more than data.max_bad_fraction=0.2") as error:
        train(loader_of(index, LostClips(0.2)))
    assert all(name in str(error.value) for name in ("v02.mp4", "v05.mp4", "v08.mp4"))


def test_a_folder_that_is_gone_ends_the_run_at_once(folder, index):
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="max_bad_fraction"):
        train(loader_of(index, LostClips(0.5)))
    with pytest.raises(UserError, match="is the folder of the videos still there"):
        train(loader_of(index, LostClips(1.0)))


def test_a_read_that_hangs_is_a_bad_file(folder, index):
    """A named pipe that nobody writes to never opens, as on a dead network drive."""
    for name in ("c0/v02.mp4", "c1/v05.mp4", "c0/v08.mp4"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    loader = loader_of(index, lost := LostClips(0.5), timeout_s=0.5)
    begin = time.monotonic()
    _, batches = train(loader)
    assert time.monotonic() - begin < 10
    assert sum(len(b.labels_N) for b in batches) == VIDEOS
    assert sorted(Path(p).name for p in lost.files) == ["v02.mp4", "v05.mp4", "v08.mp4"]
    assert all("took more than 0.5 s (data.decode_timeout_s)" in why for why in lost.files.values())
    assert len(list(train(loader, epoch=1)[1])) == 4, "threads that hang are replaced"


def test_a_thread_that_dies_is_reported(index, monkeypatch):
    def die(*_: object, size: int) -> None:
        raise SystemExit

    monkeypatch.setattr(fetching, "decode_views", die)
    with pytest.raises(RuntimeError, match="a decode thread died: SystemExit"):
        train(loader_of(index))


def test_each_view_of_a_test_is_decoded_once_a_video(index, monkeypatch):
    calls = []
    decode = fetching.decode_views
    monkeypatch.setattr(
        fetching,
        "decode_views",
        lambda video, *rest, size: (calls.append(video.path), decode(video, *rest, size=size))[1],
    )
    loader = loader_of(index)
    samples = evaluation_samples(index, SPEC, views=5, crops=3)
    clips = torch.cat([b.clips_NCTHW for b in loader.epoch(samples)])
    assert sorted(calls) == sorted(video.path for video in index.videos)
    alone = loader_of(index)
    calls.clear()
    for view in (0, 7, 14):
        alone.configure(SPEC, 1)
        rows = samples.videos_M == 3
        first = int(np.flatnonzero(rows)[view])
        single = next(b for n, b in enumerate(alone.epoch(samples)) if n == first)
        assert torch.equal(single.clips_NCTHW[0], clips[first]), "what batches share is what they would get alone"
