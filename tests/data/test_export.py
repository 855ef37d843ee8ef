"""The Parquet file of a data set against its list and against what PyAV demuxes."""

import csv
import subprocess
import sys
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_decode_exact import H264, write

from fastplan.data import export, store_files
from fastplan.data.export import write_index
from fastplan.data.index import probe_files
from fastplan.data.lists import VideoList, read_videos
from fastplan.errors import UserError


def exported(listed: VideoList, tmp_path: Path) -> pa.Table:
    store, rows = probe_files(listed.places, cache_dir=tmp_path / "cache", threads=1)
    assert write_index(tmp_path / "new" / "set.parquet", listed, store, rows) == len(listed.places)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["set.parquet"]
    return pq.read_table(tmp_path / "new" / "set.parquet")


def demuxed(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def agrees_with_demuxing(row: dict) -> None:
    """Bytes, time and kind of every packet, and that presentation order is the order of time."""
    packets, content = demuxed(row["path"]), Path(row["path"]).read_bytes()
    assert row["packet_key"] == [packet.is_keyframe for packet in packets]
    assert row["packet_pts"] == [packet.pts for packet in packets]
    places = zip(row["packet_offset"], row["packet_size"], strict=True)
    assert [content[begin : begin + size] for begin, size in places] == [bytes(packet) for packet in packets]
    by_time = sorted(range(len(packets)), key=lambda n: packets[n].pts)
    assert [row["packet_frame"][n] for n in by_time] == list(range(row["frames"]))
    assert sum(row["packet_key"]) == row["keyframes"]
    assert row["unit_s"] == pytest.approx(float(packets[0].time_base))


def test_rows_say_what_list_and_demuxer_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row groups on both sides; B-frames, a file listed twice, one without a packet table, and a bad one."""
    monkeypatch.setattr(export, "_GROUP_ROWS", 3)
    monkeypatch.setattr(store_files, "_GROUP_ROWS", 2)
    write(tmp_path / "b frames.mp4", "libx264", frames=40, **{**H264, "bf": "3"})
    write(tmp_path / "vp9.webm", "libvpx-vp9", frames=30, g="10")
    write(tmp_path / "stream.ts", "libx264", frames=20, **H264)
    (tmp_path / "bad.mp4").write_text("no video")
    entries = [
        ("vp9.webm", "wave", "ann", 0.2, 0.9),
        ("b frames.mp4", "a, b", "bob", None, None),
        ("bad.mp4", "wave", "bob", None, None),
        ("stream.ts", "a, b", "ann", None, None),
        ("vp9.webm", "a, b", "ann", 0.5, 1.0),
    ]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group", "begin_s", "end_s"), *entries])
    rows = exported(read_videos(tmp_path / "list.csv"), tmp_path).to_pylist()
    listed = [(Path(row["path"]).name, row["label"], row["group"], row["begin_s"], row["end_s"]) for row in rows]
    assert listed == entries
    for row in (rows[0], rows[1], rows[4]):
        assert not row["bad"] and not row["fallback"]
        agrees_with_demuxing(row)
    assert any(rows[1]["packet_nonref"]) and rows[1]["packet_frame"] != sorted(rows[1]["packet_frame"])
    assert rows[2]["bad"].startswith("cannot be decoded") and rows[2]["packet_key"] is None
    assert "do not lie in one piece" in rows[3]["fallback"] and rows[3]["packet_offset"] is None
    assert rows[3]["frames"] == 20


def test_the_shared_videos(shared: Path, tmp_path: Path) -> None:
    """Every real file whose packets are all shown and timed: AVI has no times, and MPEG-4's fillers are dropped."""
    rows = exported(read_videos(shared / "videos", labelled=False), tmp_path).to_pylist()
    assert len(rows) == 27 and {row["label"] for row in rows} == {None}
    compared = [row for row in rows if Path(row["path"]).suffix in (".mp4", ".mov", ".mkv", ".webm")]
    compared = [row for row in compared if not any(frame is None for frame in row["packet_frame"])]
    assert len(compared) >= 15
    for row in compared:
        agrees_with_demuxing(row)


def test_the_command_writes_it(tmp_path: Path) -> None:
    (tmp_path / "data" / "x").mkdir(parents=True)
    write(tmp_path / "data" / "x" / "a.mp4", "libx264", frames=20, **H264)
    words = [
        "check",
        str(tmp_path / "data"),
        "--index",
        str(tmp_path / "x.parquet"),
        f"data.cache={tmp_path / 'cache'}",
    ]
    done = subprocess.run([sys.executable, "-m", "fastplan.cli", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "x.parquet has 1 row\n" in done.stderr, done.stderr
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert (row["label"], row["group"], row["frames"]) == ("x", "x/a.mp4", 20)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", "libx264", frames=20, **H264)
    listed = read_videos(tmp_path / "a.mp4", labelled=False)
    store, rows = probe_files(listed.places, cache_dir=tmp_path / "cache", threads=1)
    with pytest.raises(UserError, match="a.mp4/x.parquet cannot be written"):
        write_index(tmp_path / "a.mp4" / "x.parquet", listed, store, rows)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match="folder.parquet cannot be written"):
        write_index(tmp_path / "folder.parquet", listed, store, rows)
