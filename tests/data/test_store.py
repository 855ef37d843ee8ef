"""The index on disk: what it keeps, what is probed again, and what a scan survives."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_decode_exact import H264, write

import fastplan.data.index as index_module
from fastplan.data import probing, store, store_files
from fastplan.data.decode import decode_clip
from fastplan.data.index import build_index, probe, probe_files
from fastplan.data.lists import VideoList, read_videos
from fastplan.data.places import Places
from fastplan.data.probe import Probed, probe_place
from fastplan.data.storage import Place
from fastplan.data.store import IndexStore
from fastplan.data.store_files import as_batch
from fastplan.errors import UserError


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are really probed, as they are."""
    seen: list[str] = []

    def noting(places, **settings):
        places = list(places)
        seen.extend(Path(place.path).name for place in places)
        return probing.probe_all(places, **settings)

    monkeypatch.setattr(index_module, "probe_all", noting)
    return seen


def listed(*paths: Path) -> VideoList:
    places = Places(Place(str(path)) for path in paths)
    return VideoList(places, tuple(n % 2 for n in range(len(paths))), tuple(map(str, paths)), ("x", "y"))


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.mkv"
    write(file, "libx264", frames=40, **{**H264, "bf": "3"})
    found = probe_place(Place(str(file)), hash_content=True)
    assert len(found.sha256) == 64 and found.keyframes > 1 and found.table is not None
    index = IndexStore(tmp_path / "index")
    with index.writer() as writer:
        writer.add(as_batch(found))
    (row,) = index.find([str(file)]).table().to_pylist()
    assert Probed(**{name: row[name] for name in store.FACTS.names}) == found
    assert index.pts(row["file"], row["row"]).tolist() == found.pts_R.tolist()
    table = index.table(row["file"], row["row"], row["bytes"])
    assert (table.coding, table.file_bytes) == (found.table.coding, file.stat().st_size)
    for name in ("offset_P", "size_P", "order_P", "flags_P"):
        stored, fresh = getattr(table, name), getattr(found.table, name)
        assert stored.tolist() == fresh.tolist() and stored.dtype == fresh.dtype


def test_the_index_is_parquet_that_others_can_read(tmp_path: Path, numbered: Path) -> None:
    build_index(read_videos(numbered), cache_dir=tmp_path, threads=1)
    (file,) = tmp_path.glob("*.parquet")
    packets = pq.read_table(file.with_suffix(".packets")).to_pylist()
    for row, table in zip(pq.read_table(file).to_pylist(), packets, strict=True):
        frames = int(Path(row["path"]).stem.split("_")[1])
        assert (row["frames"], row["codec"], row["vfr"], row["bad"]) == (frames, "h264", False, "")
        assert row["duration_s"] == pytest.approx(frames / 25)
        assert len(table["packet_offset"]) == frames and len(table["pts"]) == frames
        content = Path(row["path"]).read_bytes()
        assert sum(table["packet_size"]) < row["bytes"] == len(content)
        assert sum(flags & 1 for flags in table["packet_flags"]) == row["keyframes"]
    assert file.stat().st_size < 60_000


def test_only_what_is_new_or_changed_is_probed(tmp_path: Path, probed: list[str]) -> None:
    paths = [tmp_path / f"{name}.mp4" for name in ("a", "b", "bad", "c")]
    for path in paths:
        write(path, "libx264", frames=20, **H264)
    paths[2].write_text("no video")
    first = build_index(listed(*paths), cache_dir=tmp_path / "cache", threads=1)
    assert probed == ["a.mp4", "b.mp4", "bad.mp4", "c.mp4"] and len(first.bad) == 1
    again = build_index(listed(*paths), cache_dir=tmp_path / "cache", threads=1)
    assert len(probed) == 4 and again.videos == first.videos and again.bad == first.bad
    assert (decode_clip(again.videos[1], np.arange(3)) == decode_clip(first.videos[1], np.arange(3))).all()
    write(paths[0], "libx264", frames=25, **H264)
    (tmp_path / "d.mp4").write_bytes(paths[1].read_bytes())
    other = build_index(listed(*paths, tmp_path / "d.mp4"), cache_dir=tmp_path / "cache", threads=1)
    assert probed[4:] == ["a.mp4", "d.mp4"]
    assert [video.frames for video in other.videos] == [25, 20, 20, 20]
    hashed = probe_files(listed(*paths).places, cache_dir=tmp_path / "cache", threads=1, hash_content=True)[1].table()
    assert probed[6:] == ["a.mp4", "b.mp4", "c.mp4"] and all(len(h) == 64 for h in hashed["sha256"].to_pylist()[:2])
    paths[3].unlink()
    assert "no such file" in str(build_index(listed(*paths), cache_dir=tmp_path / "cache", threads=1).bad)


def test_damaged_and_old_files_of_the_index_are_passed_over(tmp_path: Path, probed: list[str]) -> None:
    path = tmp_path / "a.mp4"
    write(path, "libx264", frames=20, **H264)
    two = listed(path, path)
    build_index(two, cache_dir=tmp_path / "cache", threads=1)
    (file,) = (tmp_path / "cache").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    assert len(build_index(two, cache_dir=tmp_path / "cache", threads=1)) == 2 and len(probed) == 2
    (file,) = set((tmp_path / "cache").glob("*.parquet")) - {file}
    packets = file.with_suffix(".packets")
    whole = packets.read_bytes()
    packets.write_bytes(whole[:-1])
    assert not len(IndexStore(tmp_path / "cache").find([str(path)]))
    packets.write_bytes(whole)
    pq.write_table(pq.read_table(file).replace_schema_metadata({"fastplan.index": "0"}), file)
    assert len(build_index(two, cache_dir=tmp_path / "cache", threads=1)) == 2 and len(probed) == 3


def test_files_that_are_merged_while_somebody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge between the look at the folder and the look into its files loses no row."""
    index = IndexStore(tmp_path)
    for number in range(3):
        with index.writer() as writer:
            writer.add(as_batch(Probed(f"{number}", "", frames=number)))
    names = store.file_names
    merged = iter((False, True))

    def merging(folder: Path) -> list[str]:
        found = names(folder)
        if not next(merged, True):
            monkeypatch.setattr(store, "file_names", names)
            store.merge(folder)
        return found

    monkeypatch.setattr(store, "file_names", merging)
    assert IndexStore(tmp_path).find(["0", "1", "2"]).table()["frames"].to_pylist() == [0, 1, 2]
    assert len(names(tmp_path)) == 1 and len(list(tmp_path.glob("*.packets"))) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can be kept in .*file/index .*: set data\.cache"):
        probe_files([Place("a.mp4")], cache_dir=tmp_path / "file" / "index", threads=1)


def test_files_are_merged_and_the_newest_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, "libx264", frames=30, **H264)
    real = probe_place(Place(str(path)))
    index = IndexStore(tmp_path / "index")
    with index.writer() as writer:
        writer.add(as_batch(real))
    early = index.find([str(path)]).table().to_pylist()[0]
    for number in range(store._MOST_FILES + 3):
        with index.writer() as writer:
            writer.add(as_batch(Probed("same", f"stamp {number}", frames=number)))
            writer.add(as_batch(Probed(f"own {number}", "", frames=number)))
    assert len(list((tmp_path / "index").glob("*.parquet"))) < store._MOST_FILES
    wanted = [str(path), "same", *(f"own {number}" for number in range(store._MOST_FILES + 3))]
    for reader in (index, IndexStore(tmp_path / "index")):
        rows = {row["path"]: row for row in reader.find(wanted).table().to_pylist()}
        assert set(rows) == set(wanted)
        assert rows["same"]["frames"] == store._MOST_FILES + 2
        assert all(rows[f"own {number}"]["frames"] == number for number in range(store._MOST_FILES + 3))
        table = reader.table(rows[str(path)]["file"], rows[str(path)]["row"], real.bytes)
        assert table.offset_P.tolist() == real.table.offset_P.tolist()
    assert len(index.table(early["file"], early["row"], real.bytes)) == 30  # from a file that is gone but open


def test_files_stay_apart_where_they_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Lustre without -o flock: two merges at once would lose rows."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(store_files.fcntl, "flock", no_locks)
    index = IndexStore(tmp_path)
    for number in range(store._MOST_FILES + 2):
        with index.writer() as writer:
            writer.add(as_batch(Probed(f"own {number}", "", frames=number)))
    assert len(list(tmp_path.glob("*.parquet"))) == store._MOST_FILES + 2
    assert len(index.find([f"own {number}" for number in range(store._MOST_FILES + 2)])) == store._MOST_FILES + 2


def test_what_another_scan_removes_first_is_no_matter(tmp_path: Path) -> None:
    """A name that leads nowhere, as that of a file which goes while both look at it."""
    (tmp_path / "old.partial").symlink_to(tmp_path / "gone")
    with IndexStore(tmp_path).writer() as writer:
        writer.add(as_batch(Probed("a", "")))
    assert len(IndexStore(tmp_path).find(["a"])) == 1


def test_rows_stay_with_their_packets_through_merges_of_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MOST_FILES", 3)
    monkeypatch.setattr(store_files, "_FILE_ROWS", 8)
    monkeypatch.setattr(store_files, "_GROUP_ROWS", 3)
    newest: dict[str, int] = {}
    for number in range(24):
        newest |= {f"{(number * k) % 41}": number for k in range(2, 9)}
        with IndexStore(tmp_path).writer() as writer:
            for path in {path for path, value in newest.items() if value == number}:
                writer.add(as_batch(Probed(path, "", frames=number, pts_R=np.array([number, int(path)]))))
    (merged,) = tmp_path.glob("*-merged.parquet")
    assert pq.ParquetFile(merged).num_row_groups > 2
    index = IndexStore(tmp_path)
    rows = index.find(list(newest)).table().to_pylist()
    assert {row["path"]: row["frames"] for row in rows} == newest
    pts = {row["path"]: index.pts(row["file"], row["row"]).tolist() for row in rows}
    assert pts == {path: [number, int(path)] for path, number in newest.items()}


_KILLED = """
import os, signal, sys
from pathlib import Path
from fastplan.data import store_files
from fastplan.data.index import probe_files
from fastplan.data.storage import Place

store_files._FILE_ROWS, store_files._GROUP_ROWS = 4, 2
done = 0

def step():
    global done
    done += 1
    if done == 11:
        os.kill(os.getpid(), signal.SIGKILL)

places = [Place(str(path)) for path in sorted(Path(sys.argv[1]).glob("*.mp4"))]
probe_files(places, cache_dir=Path(sys.argv[2]), threads=2, on_video=step)
"""


def test_a_killed_scan_keeps_what_it_probed(tmp_path: Path, probed: list[str]) -> None:
    data = copies(tmp_path / "data", 20)
    done = subprocess.run([sys.executable, "-c", _KILLED, str(data), str(tmp_path / "cache")], timeout=120)
    assert done.returncode == -signal.SIGKILL
    places = [Place(str(path)) for path in sorted(data.iterdir())]
    _, found = probe_files(places, cache_dir=tmp_path / "cache", threads=1)
    rows = found.table()
    assert len(rows) == 20 and set(rows["frames"].to_pylist()) == {8}
    assert len(probed) == 12  # two files of four rows were finished before the kill


_HANGS = """
import sys
from pathlib import Path
from fastplan.data import probing
from fastplan.data.index import probe_files
from fastplan.data.storage import Place

probing._START = (
    "import json, pathlib, sys, time; sys.path[:] = json.loads(sys.argv[1]); from fastplan.data import probing; "
    "probing.probe_place = lambda place, **_: (pathlib.Path(place.path).touch(), time.sleep(1000)); probing.serve()"
)
probe_files([Place(sys.argv[1])], cache_dir=Path(sys.argv[2]), threads=1)
"""


def test_a_killed_scan_leaves_no_process_behind_whose_decoder_hangs(tmp_path: Path) -> None:
    file = tmp_path / "hangs.mp4"
    scan = subprocess.Popen([sys.executable, "-c", _HANGS, str(file), str(tmp_path / "cache")])
    wait_until(file.exists)
    worker = int(Path(f"/proc/{scan.pid}/task/{scan.pid}/children").read_text().split()[0])
    scan.kill()
    scan.wait()
    try:
        wait_until(lambda: not Path(f"/proc/{worker}").exists())
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_an_interrupted_scan_keeps_all_it_probed(tmp_path: Path, probed: list[str]) -> None:
    places = [Place(str(path)) for path in sorted(copies(tmp_path / "data", 9).iterdir())]
    steps: Iterator[int] = iter(range(100))

    def interrupted() -> None:
        if next(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe_files(places, cache_dir=tmp_path / "cache", threads=2, on_video=interrupted)
    probed.clear()
    _, found = probe_files(places, cache_dir=tmp_path / "cache", threads=2)
    assert len(found) == 9 and len(probed) == 3


def test_a_file_that_hangs_or_crashes_the_decoder_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to hangs in `open`; a worker really dies of its signal."""
    data = copies(tmp_path / "data", 5)
    os.mkfifo(data / "hang.mp4")
    (data / "crash.mp4").write_bytes(b"x")
    (data / "defect.mp4").write_bytes(b"x")
    monkeypatch.setattr(
        probing,
        "_START",
        "import json, os, sys; sys.path[:] = json.loads(sys.argv[1]); from fastplan.data import probing; "
        "real = probing.probe_place; probing.probe_place = lambda place, **rest: os.abort() if 'crash' in place.path "
        "else 1 / 0 if 'defect' in place.path else real(place, **rest); probing.serve()",
    )
    places = [Place(str(path)) for path in sorted(data.iterdir())]
    _, found = probe_files(places, cache_dir=tmp_path / "cache", threads=2, limit_s=2.0)
    bad = {Path(row["path"]).name: row["bad"] for row in found.table().to_pylist() if row["bad"]}
    assert bad == {
        "hang.mp4": "takes more than 2 s to decode",
        "crash.mp4": "the decoder crashed (SIGABRT)",
        "defect.mp4": "the decoder crashed (ZeroDivisionError: division by zero)",
    }
    assert len(found) == 8
    probed: list[str] = []
    monkeypatch.setattr(index_module, "probe_all", lambda todo, **_: probed.extend(p.path for p in todo) or iter(()))
    probe_files(places, cache_dir=tmp_path / "cache", threads=2, limit_s=2.0)
    assert not probed
    probe_files(places, cache_dir=tmp_path / "cache", threads=2, limit_s=3.0)  # more time: the slow one is tried again
    assert probed == [str(data / "hang.mp4")]


def test_workers_that_cannot_start_are_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_START", "import no_such_module")
    with pytest.raises(RuntimeError, match="probing does not start: ModuleNotFoundError"):
        probe_files([Place(str(copies(tmp_path, 1) / "0.mp4"))], cache_dir=tmp_path / "cache", threads=1)


def test_packet_tables_of_many_videos_are_not_held_in_memory(tmp_path: Path) -> None:
    """1,500 tables of 2,000 packets, 50 MB of them: while they are written and when they are found, Arrow holds few."""
    file = tmp_path / "a.mp4"
    write(file, "libx264", frames=8, **H264)
    small = probe_place(Place(str(file)))
    columns = {
        "offset_P": np.arange(2000, dtype=np.int64) * 1000,
        "size_P": np.full(2000, 900, np.int32),
        "order_P": np.arange(2000, dtype=np.int32),
        "flags_P": np.full(2000, 17, np.uint8),
    }
    large = replace(small, table=replace(small.table, **columns), pts_R=np.arange(2000))
    index = IndexStore(tmp_path / "index")
    before = pa.total_allocated_bytes()
    most = 0
    paths = [f"/videos/{number}.mp4" for number in range(1500)]
    with index.writer() as writer:
        for path in paths:
            writer.add(as_batch(replace(large, path=path)))
            most = max(most, pa.total_allocated_bytes() - before)
    rows = index.find(paths).table()
    held = pa.total_allocated_bytes() - before
    assert len(rows) == 1500 and most < 6e6 and held < 1e6, (most, held)
    assert len(index.table(rows["file"][1234].as_py(), rows["row"][1234].as_py(), small.bytes)) == 2000


def test_tables_are_kept_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_KEPT_TABLES", 2)
    index = build_index(listed(*sorted(copies(tmp_path / "data", 4).iterdir())), cache_dir=tmp_path, threads=1)
    assert len({id(video.table) for _ in range(3) for video in index.videos}) >= 4
    assert len(index.videos._store._kept) == 2
    assert index.videos[3].table is index.videos[3].table


def copies(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "0.mp4", "libx264", frames=8, **H264)
    assert probe(folder / "0.mp4").frames == 8
    for number in range(1, count):
        (folder / f"{number}.mp4").write_bytes((folder / "0.mp4").read_bytes())
    return folder
