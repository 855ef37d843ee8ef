"""A decoder that crashes: real processes end by real signals; the right video is blamed, or none."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastplan.data.crashes import Crashes, blamed
from numbered_videos import write_numbered
from whole_runs import command

# Four videos are read at a time and one of the readers ends the process; the others are in the middle of theirs.
_CRASHING = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from fastplan.data.crashes import Crashes

crashes, end = Crashes(Path(sys.argv[1])), sys.argv[2]
together = threading.Barrier(5)

def read(name):
    with crashes.reading(name):
        together.wait()
        if name == "/videos/c ü.mp4" and end == "null":
            ctypes.CDLL(None).strlen(None)  # as a decoder does, without the interpreter's lock
        if name == "/videos/c ü.mp4" and end == "abort":
            ctypes.CDLL(None).abort()
        time.sleep(60)

for name in "a", "b", "c ü", "d":
    threading.Thread(target=read, args=(f"/videos/{name}.mp4",), daemon=True).start()
with crashes.reading("/videos/before.mp4"):
    pass
together.wait()
if end.isdigit():
    os.kill(os.getpid(), int(end))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("end", "status", "blame"),
    [
        ("null", "SIGSEGV", True),
        ("abort", "SIGABRT", True),
        (str(int(signal.SIGSEGV)), "SIGSEGV", False),  # sent from elsewhere: the main thread has it
        (str(int(signal.SIGKILL)), "SIGKILL", None),
        (str(int(signal.SIGTERM)), "SIGTERM", None),
    ],
)
def test_the_video_of_the_thread_that_crashed_is_blamed_and_no_other(tmp_path, end, status, blame):
    words = [sys.executable, "-c", _CRASHING, str(tmp_path), end]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert signal.Signals(-done.returncode).name == status, done.stderr
    crashes = Crashes(tmp_path)
    if blame is None:
        assert crashes.found == []
    else:
        (crash,) = crashes.found
        assert (crash.signal, crash.path) == (status, "/videos/c ü.mp4" if blame else None)
        assert "Current thread" in crash.words.read_text()
    assert crashes.files == ({"/videos/c ü.mp4": f"the decoder crashed ({status})"} if blame else {})
    crashes.close()
    later = Crashes(tmp_path)
    assert later.found == [] and later.files == crashes.files == blamed(tmp_path)
    later.close()
    assert not [*tmp_path.glob("*.notes"), *tmp_path.glob("*.words")]


def test_notes_of_a_process_that_lives_are_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _CRASHING, str(tmp_path), "-"]) as process:
        while not list(tmp_path.glob("*.words")):
            assert process.poll() is None
        Crashes(tmp_path).close()
        assert len(list(tmp_path.glob("*.notes"))) == 1
        process.kill()
    Crashes(tmp_path).close()
    assert not list(tmp_path.glob("*.notes"))


def test_more_threads_than_there_is_room_for_only_go_without_a_note(tmp_path):
    crashes = Crashes(tmp_path)
    held = [crashes.reading(f"/{n}.mp4") for n in range(300)]
    for one in held:
        one.__enter__()
    for one in held:
        one.__exit__(None, None, None)
    with crashes.reading("/" + "x" * 5000):
        pass
    crashes.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(12):
        write_numbered(root / f"c{number % 2}" / f"v{number:02}.mp4", 20)
    return root


@pytest.fixture
def broken(videos, tmp_path, monkeypatch) -> Path:
    """A video over which every process crashes that decodes it: it reads from address 0."""
    broken = videos / "c1" / "v05.mp4"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        "import ctypes, sys\n"
        "if not any('probing' in word for word in sys.orig_argv):\n"
        "    from fastplan.data import fetching\n"
        "    decode = fetching.decode_views\n"
        "    def crash(video, *rest, size):\n"
        f"        if video.path == {str(broken)!r}:\n"
        "            ctypes.CDLL(None).strlen(None)\n"
        "        return decode(video, *rest, size=size)\n"
        "    fetching.decode_views = crash\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    return broken


def short_run(run: Path, videos: Path, *more: str) -> list[str]:
    """One epoch of one state."""
    graph = run.parent / "one.yaml"
    graph.write_text(
        "states:\n  a: {segments: 1, frames: 4, size: 24, lr: 0.05, batch_size: 8}\nedges: [start -> a]\n"
        "config: {network: {name: dg_p3d_tiny}, train: {threads: 1, bn_clips: 8}, test: {clips: 1, crops: 1}}\n"
    )
    settings = ["plan.max_epochs=1", "plan.attempt_epochs=1", "data.max_bad_fraction=0.5", "data.threads=2"]
    return command(run, "--state-graph", str(graph), "--data", str(videos), "--device", "cpu", *settings, *more)


def unwrapped(text: str) -> str:
    return "".join(text.split())


def assert_left_out(run: Path, broken: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert unwrapped(f"cannot read {broken}: the decoder crashed (SIGSEGV)") in unwrapped(done.stdout)
    lost = json.loads((run / "results.json").read_text())["lost_clips"]
    assert {(clip["path"], clip["reason"]) for clip in lost} == {(str(broken), "the decoder crashed (SIGSEGV)")}
    assert "the decoder crashed (SIGSEGV)" in (run / "report.html").read_text()
    assert blamed(run / "crashes") == {str(broken): "the decoder crashed (SIGSEGV)"}


def test_a_run_whose_decoder_crashes_goes_on_without_that_video(videos, broken, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(short_run(run, videos), capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr
    done = subprocess.run(command(run, "--resume"), capture_output=True, text=True)
    assert_left_out(run, broken, done)
    told = f"ended by SIGSEGV, decoding {broken}, which is left out from now on"
    assert unwrapped(told) in unwrapped(done.stdout)


def test_a_worker_whose_decoder_crashes_is_replaced_by_one_that_knows(videos, broken, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(short_run(run, videos, "--workers", "2"), capture_output=True, text=True)
    assert_left_out(run, broken, done)
    assert done.stdout.count("died (killed by SIGSEGV)") == 1
    assert not list((run / "crashes").glob("*.notes"))
