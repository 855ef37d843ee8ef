"""`fastplan bench plan`: it trains what it says; a bench that was killed ends like one never stopped."""

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from fastplan.benchmarks import bench_plan, bench_schedules, schedule_table
from fastplan.benchmarks.schedule_trainer import _RunWatcher, _Seed, train_all
from fastplan.benchmarks.schedules import (
    CONSTANT_AT_PRICE,
    CONSTANTS,
    COSINE_AT_PRICE,
    HALVING,
    KNEES,
    LONG,
    RATES,
    REPLAY,
    SEARCH,
    Asked,
    Ledger,
    Listener,
    Trained,
)
from fastplan.config import DataConfig, replay_settings
from fastplan.data.splits import cache_dir
from fastplan.data.synthetic import make_task
from fastplan.launch import Request, resolve
from fastplan.planner.comparators import Spend
from fastplan.planner.halving import rungs
from fastplan.rundir import RunDir
from fastplan.runner import Runner
from fastplan.train import edge

GRAPH = """
states:
  c4: {segments: 1, frames: 4, size: 16, lr: 0.05, batch_size: 2}
  u8: {segments: 2, frames: 4, size: 16, lr: 0.05, batch_size: 2}
  low: {segments: 2, frames: 4, size: 16, lr: 0.005, batch_size: 2}
edges: [start -> u8, start -> c4, c4 -> u8, u8 -> low]
config:
  data: {train: TRAIN, val: VAL, test: TEST, clips_per_epoch: 16, threads: 1, augment: {blur: 0.0}}
  network: {name: dg_p3d_tiny}
  optim: {clip_grad_norm: 5.0}
  train: {threads: 1, precision: fp32, bn_clips: 8}
  plan: {attempt_epochs: 1, replay_attempt_epochs: 1, max_epochs: 1, score_clips: 1}
  test: {clips: 1, crops: 1}
"""
BUDGET = 7  # epochs: what halving needs at least


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Two videos of a class to train on, one to decide and one for the test, from the embedded task."""
    folder = tmp_path_factory.mktemp("graph")
    task = make_task("tiny", cache_dir(DataConfig()) / "tasks", workers=2)
    text = GRAPH
    for word, split, each in (("TRAIN", "train", 2), ("VAL", "val", 1), ("TEST", "test", 1)):
        lines = [
            f"{video} {label}\n"
            for label, of_class in enumerate(sorted((task / split).iterdir()))
            for video in sorted(of_class.iterdir())[:each]
        ]
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
        text = text.replace(f" {word},", f" {folder / split}.txt,")
    (folder / "small-bench.yaml").write_text(text, encoding="utf-8")
    return folder / "small-bench.yaml"


class Watching(Listener):
    """Counts the frames of every training pass, and notes the shapes of its batches, by what is under way."""

    def __init__(self):
        self.now, self.frames, self.shapes = "", defaultdict(int), defaultdict(list)

    def begin(self, seed, name):
        self.now = name

    def watch(self, monkeypatch):
        of = self

        def noting(make):
            def made(*args, **kwargs):
                network = make(*args, **kwargs)
                network.register_forward_pre_hook(note)
                return network

            return made

        def note(network, inputs):
            if network.training:
                n, _, t, h, _ = inputs[0].shape
                of.frames[of.now] += n * t
                of.shapes[of.now].append((n, t, h))

        monkeypatch.setattr(edge, "build_network", noting(edge.build_network))


@dataclass(frozen=True)
class Resumed:
    """A bench that was killed in its second schedule and went on: what was asked, trained and seen, and its output."""

    asked: Asked
    words: list[str]
    work: Path
    trained: dict[str, Trained]
    watching: Watching
    killed: set[str]  # what was begun before the kill
    table: str


@pytest.fixture(scope="module")
def resumed(graph, tmp_path_factory):
    folder, watching = tmp_path_factory.mktemp("bench"), Watching()
    work, out = folder / "work", folder / "out.md"
    words = ["--state-graph", str(graph), "--seeds", "1", "--budget", f"{BUDGET}e"]
    words += ["--work", str(work), "--out", str(out)]
    asked, _ = bench_schedules._resolve(Request(state_graph=str(graph)), 1, f"{BUDGET}e")
    process = subprocess.Popen([sys.executable, "-m", "fastplan.benchmarks.bench_plan", *words], stderr=subprocess.PIPE)
    ledger = work / "seed0" / "epochs.jsonl"
    while process.poll() is None and (not ledger.exists() or '"step>' not in ledger.read_text(encoding="utf-8")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    rows = [json.loads(line) for line in ledger.read_bytes().splitlines()]
    with ledger.open("ab") as file:
        file.write(b'{"training": "step>leg1')  # torn by the kill
    with pytest.MonkeyPatch.context() as patch:
        watching.watch(patch)
        train_all(asked, work, watching)
    assert bench_plan.main(words) == 0, "nothing is left but to write the table"
    after = [json.loads(line) for line in ledger.read_bytes().splitlines()]
    assert after[: len(rows)] == rows and len({(r["training"], r["epoch"]) for r in after}) == len(after)
    found = [json.loads(file.read_text(encoding="utf-8")) for file in (work / "seed0").glob("*.json")]
    trained = {one["name"]: Trained(**{**one, "curve": tuple(map(tuple, one["curve"]))}) for one in found}
    killed = {SEARCH, *CONSTANTS, "step"}
    return Resumed(asked, words, work, trained, watching, killed, out.read_text(encoding="utf-8"))


def test_every_schedule_trains_the_same_clip_frames_and_no_others(resumed):
    asked, trained, seen = resumed.asked, resumed.trained, resumed.watching.frames
    budget, epoch = asked.spend.clip_frames, 16 * 8
    assert budget == BUDGET * epoch
    assert set(trained) == {*asked.schedules, *CONSTANTS, COSINE_AT_PRICE, HALVING, KNEES, SEARCH, REPLAY}
    for name, one in trained.items():
        assert not one.diverged and 0 < one.cpu_s < 60, name
        if name not in resumed.killed:
            assert seen[name] == one.clip_frames, name
    for name in (*asked.schedules, REPLAY):
        assert abs(trained[name].clip_frames - budget) <= epoch / 2, name
    assert trained[LONG].clip_frames == 2 * budget
    for one, after in pairwise(sorted((trained[name] for name in CONSTANTS), key=lambda one: one.clip_frames)):
        assert after.curve[: len(one.curve)] == one.curve, "the longer one goes on with the shorter"


def test_two_plain_schedules_cost_what_the_search_did(resumed):
    """Everything that it trained, the edges that it did not choose included, to half an epoch."""
    price, epoch = resumed.trained[SEARCH].clip_frames, 16 * 8
    trained = Ledger(resumed.work / "seed0" / "epochs.jsonl").of("planned-search>")
    assert price == sum(row["clip_frames"] for row in trained) >= epoch * 7 / 2, "an epoch of c4, three edges into u8"
    for name in (CONSTANT_AT_PRICE, COSINE_AT_PRICE):
        assert abs(resumed.trained[name].clip_frames - price) <= epoch / 2


def test_the_short_cycle_trains_the_sizes_that_it_says(resumed):
    legs = resumed.asked.schedules["multigrid short"].legs
    says = [
        (batch, clip.length, clip.size)
        for leg in legs
        for _ in range(leg.epochs)
        for clip, batch in leg.state.steps(16)
    ]
    assert resumed.watching.shapes["multigrid short"] == says
    assert says[:3] == [(8, 8, 8), (4, 8, 12), (2, 8, 16)]


def test_halving_pays_for_what_it_drops(resumed):
    trained = resumed.trained[HALVING]
    first, *others = steps = rungs(len(RATES), BUDGET)
    epochs = first.survivors * first.epochs
    epochs += sum(rung.survivors * (rung.epochs - below.epochs) for below, rung in pairwise(steps))
    assert trained.epochs == epochs == BUDGET and others
    assert trained.clip_frames == resumed.watching.frames[HALVING] == resumed.asked.spend.clip_frames
    rows = Ledger(resumed.work / "seed0" / "epochs.jsonl").of("successive-halving>")
    last = max(rows, key=lambda row: row["epoch"])
    assert last["epoch"] == steps[-1].epochs and len({row["training"] for row in rows}) == len(RATES)


def test_a_killed_bench_ends_like_one_never_stopped(graph, resumed, tmp_path):
    """The schedule that was cut, trained in one go, has the accuracies of the one that went on; so has the search."""
    with _Seed(resumed.asked, 0, tmp_path, Listener()) as bench:
        for again in (bench.search()[0], bench.train("step", resumed.asked.schedules["step"])):
            assert again == replace(resumed.trained[again.name], cpu_s=again.cpu_s)
    rows = schedule_table.by_name(list(resumed.trained.values()))
    assert all(line in resumed.table.splitlines() for line in schedule_table.table(rows).splitlines())
    assert "fastplan bench plan --state-graph" in resumed.table and "torch" in resumed.table
    assert str(resumed.work) not in resumed.table, "a page says what was trained, not where"
    assert "left out: multigrid both: state 'u8'" in resumed.table
    assert "top-1, %" in (resumed.work.parent / "out.svg").read_text(encoding="utf-8")


def test_another_bench_does_not_go_into_the_same_folder(resumed, capsys):
    assert bench_plan.main([*resumed.words, "optim.momentum=0.8"]) == 2
    assert "holds a bench with another config; give another --work" in capsys.readouterr().err


def test_a_replay_of_the_product_trains_the_same(resumed, tmp_path):
    """`fastplan train --plan FILE --exact` gives the accuracies of the bench, epoch by epoch."""
    plan = replace(resumed.asked.schedules["short to long"], config=replay_settings(resumed.asked.task.config))
    (tmp_path / "plan.yaml").write_text(plan.to_yaml(), encoding="utf-8")
    data = resumed.asked.task.config.data
    words = ("train.precision=fp32", *(f"data.{key}={getattr(data, key)}" for key in ("train", "val", "test")))
    task = resolve(Request(plan=str(tmp_path / "plan.yaml"), exact=True, overrides=words, seed=0))
    rundir = RunDir(tmp_path / "run")
    watcher = _RunWatcher(Ledger(tmp_path / "epochs.jsonl"), "run", Listener())
    with Runner(rundir, task.config, states=task.states, target=task.target, watcher=watcher) as runner:
        runner.replay(task.plan)
        accuracies = [r.accuracy for key in runner.journal.edges() for r in runner.journal.epochs(key) if r.epoch]
    rundir.close()
    assert accuracies == [accuracy for _, accuracy in resumed.trained["short to long"].curve]
    assert len(set(accuracies)) > 1


def test_what_cannot_be_made_is_left_out_and_named(resumed):
    assert set(resumed.asked.left_out) == {"multigrid long", "multigrid both"}
    assert "cannot be cut to 0.25" in resumed.asked.left_out["multigrid long"]
    short = replace(resumed.asked, spend=replace(resumed.asked.spend, clip_frames=(BUDGET - 1) * 16 * 8))
    assert "6 epochs are too few to halve 4 candidates" in short.left_out[HALVING]


def test_quick_leaves_out_nothing_but_the_largest_batches():
    request = Request(state_graph="default", overrides=bench_schedules.QUICK)
    task = resolve(request)
    clips = task.config.data.clips_per_epoch
    epochs = int(bench_schedules.QUICK_BUDGET.removesuffix("e"))
    asked = Asked(request, task, 1, Spend(epochs * clips * task.target.clip.length, clips))
    assert set(asked.left_out) == {"multigrid both"}


def test_one_schedule_alone_is_what_it_is_among_the_others(resumed, tmp_path, capsys):
    words = [w if w != str(resumed.work) else str(tmp_path / "work") for w in resumed.words]
    words[words.index("--out") + 1] = str(tmp_path / "alone.md")
    assert bench_plan.main([*words, "--only", "cosine"]) == 0
    rows = [line for line in (tmp_path / "alone.md").read_text(encoding="utf-8").splitlines() if "| 1 |" in line]
    (among,) = [line for line in resumed.table.splitlines() if line.startswith("| cosine | ")]
    price, top = among.split(" | ")[1:3], among.split(" | ")[4]
    assert len(rows) == 1 and rows[0].split(" | ")[1:3] == price and rows[0].split(" | ")[4] == top
    assert bench_plan.main([*words, "--only", "cosin"]) == 2
    assert "no schedule is called 'cosin'; there are planned search, constant, " in capsys.readouterr().err


def test_start_rates_are_schedules_where_the_rate_is_a_question():
    request = Request(state_graph="embedded-lr")
    asked = Asked(request, resolve(request), 1, Spend(20 * 480 * 16, 480))
    rates = {name: plan.legs[0].state.lr for name, plan in asked.schedules.items() if name.startswith("constant")}
    assert rates == {"constant": 0.4, "constant at 0.1": 0.1, "constant at 0.025": 0.025}


def test_the_answer_counts_what_two_standard_errors_and_one_video_allow():
    def of(name, price, *tops):
        return [Trained(name, seed, price, 1, 1.0, top, top, top, (), "") for seed, top in enumerate(tops)]

    def direct(search, constant):
        rows = schedule_table.by_name([*of(CONSTANT_AT_PRICE, 290, *constant), *of(SEARCH, 300, *search)])
        return schedule_table.answer(rows, budget=100, videos=100)[0]

    assert direct((0.9, 0.92, 0.91), (0.8, 0.81, 0.83)).endswith("+9.7 ± 0.9 points: it pays")
    assert direct((0.905, 0.905, 0.905), (0.9, 0.9, 0.9)).endswith(": equal")

    def says(search, constant):
        rows = schedule_table.by_name([*of("constant", 100, *constant), *of(SEARCH, 300, *search)])
        return schedule_table.answer(rows, budget=100, videos=100)[0]

    assert says((0.9, 0.92, 0.91), (0.8, 0.81, 0.83)).endswith(": it pays")
    assert says((0.8, 0.81, 0.83), (0.9, 0.92, 0.91)).endswith(": it does not pay")
    assert says((0.9, 0.7, 0.9), (0.8, 0.81, 0.83)).endswith("no better, and dearer")
    assert says((0.905, 0.905, 0.905), (0.9, 0.9, 0.9)).endswith("no better, and dearer"), "half a test video"
    assert says((0.9,), (0.8,)).endswith("one seed cannot tell")
    assert "3.0 budgets against 1.0" in says((0.9,), (0.8,))
