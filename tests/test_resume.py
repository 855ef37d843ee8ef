"""A run killed at any moment and resumed ends like one that was never stopped: real processes, SIGKILL."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastplan.configs import shipped
from fastplan.planner.graph_files import load_graph
from fastplan.planner.plans import Leg, Plan
from fastplan.rundir import RunDir
from numbered_videos import write_numbered
from whole_runs import (
    FASTPLAN,
    SETTINGS,
    assert_same_end,
    command,
    finish_here,
    fresh,
    journal_of,
    permissions_bind,
    run_here,
    start,
    wait_for_epochs,
)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(reference, tmp_path):
    """Each after up to one more epoch and a random part of a second: in training, validation, saving or committing."""
    rng = random.Random(0)
    run = tmp_path / "run"
    for _ in range(10):
        process = start(command(run, "--resume") if RunDir.has_run(run) else fresh(run))
        wait_for_epochs(process, rng.choice([0, 1, 2, 2]))  # the first line shows the last epoch again
        time.sleep(rng.uniform(0, 0.25))
        assert process.poll() is None, process.stdout.read()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    epochs = len(journal_of(run)["epochs"])
    assert 3 <= epochs < len(journal_of(reference)["epochs"]), "the kills fell before or after all of the work"
    finish_here(command(run, "--resume"))
    assert_same_end(run, reference)


def test_a_full_disk_is_one_clear_line_and_loses_nothing(reference, tmp_path):
    """No file above 1.1 MB, so the first checkpoint cannot be written; with space again it ends like any other."""
    run = tmp_path / "run"
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_100_000, 1_100_000));"
    limited += "from fastplan.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", limited, *fresh(run)[3:]]
    full = subprocess.run(words, capture_output=True, text=True)
    assert full.returncode == 2
    assert "cannot write" in full.stderr and "--resume" in full.stderr and "Traceback" not in full.stderr
    finish_here(command(run, "--resume"))
    assert_same_end(run, reference)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_cannot_be_written_is_one_clear_line_and_nothing_is_touched(reference, tmp_path):
    """A killed run's journal, its lock or its whole folder is read-only; writable again, it ends like any other."""
    run = tmp_path / "run"
    process = start(fresh(run))
    wait_for_epochs(process, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = contents_of(run)
    journal = f"cannot use the journal {run / 'journal.sqlite'}"
    for name, refusal in (("journal.sqlite", journal), ("", journal), (".lock", f"cannot use the run folder {run}")):
        mode = (run / name).stat().st_mode
        (run / name).chmod(mode & ~0o222)
        refused = subprocess.run(command(run, "--resume"), capture_output=True, text=True, preexec_fn=permissions_bind)
        (run / name).chmod(mode)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert refusal in refused.stderr and len(refused.stderr.splitlines()) == 1
        assert contents_of(run) == before
    finish_here(command(run, "--resume"))
    assert_same_end(run, reference)


def test_a_finished_run_trains_nothing_again(reference):
    before = journal_of(reference)
    said = finish_here(command(reference, "--resume"))
    assert "4 edges finished" in said and "epoch   1" not in said
    assert journal_of(reference) == before


def test_checkpoints_that_no_one_needs_are_gone(reference):
    """After the search only the last state's checkpoint is left (its own, or the parent's where it was skipped)."""
    assert len(list((reference / "checkpoints").rglob("*.pt"))) == 1


def test_another_configuration_is_refused_with_the_keys_that_differ(reference):
    asked = command(reference, "--resume", "--state-graph", "tiny", "--seed", "4", *SETTINGS, "optim.momentum=0.8")
    done = run_here(asked)
    assert done.returncode == 2
    assert "seed: 3 -> 4" in done.stderr and "optim.momentum: 0.9 -> 0.8" in done.stderr
    again = run_here(fresh(reference))
    assert again.returncode == 2 and "holds a run: go on with it by --resume" in again.stderr


def test_a_resolved_config_starts_the_same_run_again(reference, tmp_path):
    """config.yaml of a run, given back as --config, is the whole request."""
    run = tmp_path / "run"
    finish_here(command(run, "--config", str(reference / "config.yaml")))
    assert journal_of(run) == journal_of(reference)


@pytest.mark.parametrize("exact", [True, False])
def test_a_plan_is_replayed_without_a_search(reference, tmp_path, exact):
    run = tmp_path / "run"
    plan = [str(reference / "plan.yaml")] + (["--exact"] if exact else [])
    finish_here(command(run, "--plan", *plan, "--seed", "5"))
    results = [json.loads((path / "results.json").read_text()) for path in (reference, run)]
    planned, trained = (result["plan"]["legs"] for result in results)
    assert [leg["state"] for leg in planned] == [leg["state"] for leg in trained]
    for before, after in zip(planned, trained, strict=True):
        assert after["epochs"] == before["epochs"] if exact else after["epochs"] <= 2 * before["epochs"]
    assert results[1]["test"]["videos"] == 48
    top1 = f"video top-1 {100 * results[1]['test']['video_top1']:.1f} %"
    assert top1 in " ".join(finish_here([*FASTPLAN, "test", "--run", str(run)]).split())


def test_a_replay_killed_in_its_second_leg_and_as_its_third_begins_ends_like_one_never_stopped(tmp_path):
    graph = load_graph(shipped("state_graphs")["tiny"])
    legs = tuple(Leg(graph.state(name), 2) for name in ("c4-high", "u8-high", "u8-low"))
    (tmp_path / "plan.yaml").write_text(Plan(legs, config=graph.config).to_yaml())
    words = ["--plan", str(tmp_path / "plan.yaml"), "--exact", *SETTINGS]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish_here(command(whole, *words))
    in_second = 3 + 2  # epochs 0, 1, 2 of the first leg, 0 and 1 of the second
    as_third_begins = 2 + 1  # epochs 1 (shown again) and 2 of the second; epoch 0 of the third saves no checkpoint
    for more, epochs in ((words, in_second), (["--resume"], as_third_begins)):
        process = start(command(killed, *more))
        wait_for_epochs(process, epochs)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish_here(command(killed, "--resume"))
    assert_same_end(killed, whole)


def test_a_corrupt_checkpoint_or_journal_is_one_clear_line(reference, tmp_path):
    for name, message in (("journal.sqlite", "journal"), ("network.pt", "checkpoint")):
        run = tmp_path / name
        shutil.copytree(reference, run)
        (run / name).write_bytes(b"\0" * 5000)
        words = ["train", "--resume"] if name == "journal.sqlite" else ["test"]
        done = run_here([*FASTPLAN, words[0], "--run", str(run), *words[1:]])
        assert done.returncode == 2, done.stderr
        assert f"the {message}" in done.stderr and "is damaged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_run_loses_the_same_clips_again(tmp_path):
    """Two videos break behind the back of the index; the run is killed in its third epoch and resumed."""
    videos = tmp_path / "videos"
    for number in range(24):
        write_numbered(videos / ("run", "walk")[number % 2] / f"v{number}.mp4", 24 + number % 9)
    cache = f"data.cache={tmp_path / 'cache'}"
    finish_here([*FASTPLAN, "check", str(videos), cache])
    for number in (3, 8):
        file = videos / ("run", "walk")[number % 2] / f"v{number}.mp4"
        stat = file.stat()
        file.write_bytes(bytes(stat.st_size))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    settings = [cache, "data.max_bad_fraction=0.3", "data.clips_per_epoch=32", *SETTINGS]
    words = ["--state-graph", "tiny", "--data", str(videos), "--device", "cpu", *settings]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish_here(command(whole, *words))
    process = start(command(cut, *words))
    wait_for_epochs(process, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish_here(command(cut, "--resume"))
    lost = [sorted((run / "lost.jsonl").read_text().splitlines()) for run in (whole, cut)]
    assert lost[0] == lost[1] and {Path(json.loads(line)["path"]).name for line in lost[0]} == {"v3.mp4", "v8.mp4"}
    assert_same_end(cut, whole)
