"""Shards behind an HTTP server of this machine, over real sockets: what is asked for, and what if it fails."""

import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from test_places import numbers, write_shard

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.decode import decode_clip
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.lost import LostClips
from fastplan.data.sampling import training_samples
from fastplan.errors import UserError
from numbered_videos import write_numbered

SPEC = ClipSpec(1, 4, 1, 24)


class Server(ThreadingHTTPServer):
    """Serves one folder. mode: `ranges`, `whole` (ranges are ignored), `refuse` (503), `cut` (hangs up half-way)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.mode = folder, "ranges"
        self.broken: dict[str, range] = {}  # where it fails: these bytes of these files
        self.asked: list[tuple[str, range]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content, status = file.read_bytes(), HTTPStatus.OK
        asked = range(len(content))
        if (given := self.headers.get("Range")) and self.server.mode != "whole":
            begin, last = given.removeprefix("bytes=").split("-")
            asked, status = range(int(begin), min(int(last) + 1, len(content))), HTTPStatus.PARTIAL_CONTENT
            if not asked:
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
        broken = self.server.broken.get(file.name, range(0))
        fails = body and max(asked.start, broken.start) < min(asked.stop, broken.stop)
        if fails and self.server.mode == "refuse":
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(asked)))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.end_headers()
        if body:
            self.server.asked.append((self.path, asked))
            sent = asked[: len(asked) // 2] if fails and self.server.mode == "cut" else asked
            self.wfile.write(content[sent.start : sent.stop])
            self.close_connection = len(sent) < len(asked)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    samples = {}
    for number in range(10):
        write_numbered(tmp_path / "v.mp4", 20 + number)
        samples[f"{number:02}"] = {"mp4": (tmp_path / "v.mp4").read_bytes(), "cls": b"%d" % (number % 2)}
    for shard in range(2):
        part = {key: sample for key, sample in samples.items() if int(key) // 5 == shard}
        write_shard(tmp_path / "served" / f"train-{shard:03}.tar", part)
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def index_of(server: Server, tmp_path: Path):
    listed = read_videos(server.url("train-{000..001}.tar"), cache_dir=tmp_path / "shards")
    return build_index(listed, cache_dir=tmp_path / "cache", threads=1)


def train(index, lost: LostClips) -> torch.Tensor:
    loader = ClipLoader(
        index, AugmentConfig(), max_batch=4, threads=2, decoder="host", device=torch.device("cpu"), lost=lost
    )
    loader.configure(SPEC, 4)
    samples = training_samples(index, SPEC, AugmentConfig(), seed=2, stream="s", epoch=0)
    videos = torch.cat([batch.videos_N for batch in loader.epoch(samples)])
    loader.close()
    return videos


def test_exact_frames_of_both_shards_by_ranges_of_their_own(server, tmp_path):
    index = index_of(server, tmp_path)
    assert index.frames_N.tolist() == list(range(20, 30)) and index.labels_N.tolist() == [0, 1] * 5
    server.asked.clear()
    for video in index.videos:
        assert numbers(decode_clip(video, np.arange(8, 14))) == list(range(8, 14))
    for (_, asked), video in zip(server.asked, index.videos, strict=True):
        assert video.begin <= asked.start and asked.stop <= video.begin + video.size
    assert len(train(index, LostClips())) == 10
    found = read_videos(server.url("train-000.tar"), cache_dir=tmp_path / "shards")
    assert len(found.places.distinct()) == len(found.places) == 5


def test_a_shard_that_was_replaced_is_listed_again(server, tmp_path):
    name = server.url("train-000.tar")
    before = read_videos(name, cache_dir=tmp_path / "shards", labelled=False)
    (tmp_path / "served" / "train-000.tar").write_bytes((tmp_path / "served" / "train-001.tar").read_bytes())
    after = read_videos(name, cache_dir=tmp_path / "shards", labelled=False)
    assert [Path(place.path).name for place in before.places] == [f"{n:02}.mp4" for n in range(5)]
    assert [Path(place.path).name for place in after.places] == [f"{n:02}.mp4" for n in range(5, 10)]


def test_a_server_that_ignores_ranges_is_named_as_such(server):
    server.mode = "whole"
    with pytest.raises(UserError, match=r"train-000\.tar: its server sends whole files only"):
        read_videos(server.url("train-000.tar"))


def test_no_such_shard_and_no_such_server(server):
    with pytest.raises(UserError, match=r"there is no shard http.*gone\.tar, or its server does not answer"):
        read_videos(server.url("gone.tar"))
    with pytest.raises(UserError, match="or its server does not answer"):
        read_videos("http://127.0.0.1:9/train.tar")  # nothing listens on the discard port


@pytest.mark.parametrize(("mode", "why"), [("refuse", "503"), ("cut", "")])
def test_a_server_that_fails_in_the_middle_costs_the_clips_behind_the_failure(server, tmp_path, mode, why):
    index = index_of(server, tmp_path)
    gone = index.videos[3]
    server.mode = mode
    server.broken = {"train-000.tar": range(gone.begin + gone.size - 100, gone.begin + gone.size)}
    videos = train(index, lost := LostClips(0.5))
    assert len(videos) == 10 and 3 not in videos.tolist()
    assert set(lost.files) == {gone.path} and why in lost.files[gone.path] != ""
    with pytest.raises(UserError, match="cannot be read, more than data.max_bad_fraction=0.01 allows"):
        train(index, LostClips(0.01))


def test_a_server_that_fails_while_a_shard_is_listed_is_one_clear_error(server):
    server.mode, server.broken = "refuse", {"train-000.tar": range(2000, 10**9)}
    with pytest.raises(UserError, match=r"train-000\.tar.*503"):
        read_videos(server.url("train-000.tar"))
