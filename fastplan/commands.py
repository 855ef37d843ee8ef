"""The commands `train` and `test`, whole: open the folder, run, test, report."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from fastplan.config import RunConfig
from fastplan.data.crashes import Crash
from fastplan.data.lost import LostClips
from fastplan.doctor import environment
from fastplan.errors import UserError
from fastplan.launch import Task, save_run
from fastplan.planner.arrivals import Outcome, Reached, is_repeat
from fastplan.planner.journal import Journal
from fastplan.planner.plans import Plan
from fastplan.planner.stepwise import Stepwise
from fastplan.report.console import print_table
from fastplan.report.page import report_page
from fastplan.report.terminal import Terminal, evaluation_line, percent, plan_table, search_table
from fastplan.rundir import RunDir
from fastplan.runner import Runner, search_rules
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.evaluate import Evaluation
from fastplan.train.precision import Precision, choose_device
from fastplan.train.testing import NetworkTest
from fastplan.workers.choice import WorkerChoice
from fastplan.workers.ranks import run_test


def train(
    rundir: RunDir, task: Task, resumed: bool, workers: WorkerChoice, terminal: Terminal, *, ranks: Ranks = ALONE
) -> int:
    """Search or replay in a run folder, then test and report; returns the exit status.

    ranks: of which this process is the first; it alone writes the folder, and talks.
    """
    if task.graph is None and workers.count != 1:
        raise UserError("the legs of a plan follow one another: more than one of --workers is for a search")
    if task.graph is not None:
        Stepwise(task.graph, search_rules(task.config))  # rules that do not fit the graph are refused, nothing is begun
    with Runner(
        rundir,
        task.config,
        states=task.states,
        target=task.target,
        watcher=terminal,
        workers=workers,
        most_epochs=task.most_epochs,
        most_paused=task.most_paused(one_by_one=workers.count == 1),
        ranks=ranks,
    ) as runner:
        facts = _first_lines(runner, task, resumed)
        terminal.facts(facts)
        if not resumed:
            if runner.pretrained:
                rundir.save_pretrained(asdict(runner.pretrained))
            rundir.save_environment({**environment(), "ranks": ranks.world})
            save_run(rundir, task, runner.config)
        rundir.log(
            "resume" if resumed else "begin",
            graph=task.config.state_graph,
            plan=task.config.replay,
            ranks=ranks.world,
        )
        reached: Reached | None = None
        frontier: tuple[Reached, ...] = ()
        choices: list[str] = []
        plan: Plan | None
        if task.graph is not None:
            result = runner.search(task.graph)
            plan, note = result.plan, result.note
            reached = result.path
            frontier = result.frontier.points if result.frontier is not None else ()
            choices = [
                f"{name}: {cell.why}" for name, cell in result.reached.items() if len(task.graph.predecessors(name)) > 1
            ]
        else:
            assert task.plan is not None
            plan, note = runner.replay(task.plan), ""
        outcomes = runner.outcomes
        tested = None
        if plan is not None and runner.splits.test is not None:
            whole = NetworkTest(
                rundir.network_file.absolute(), runner.config, task.target, lost=tuple(runner.lost.clips)
            )
            tested = run_test(
                whole,
                runner.splits.test,
                runner.precision,
                lost=runner.lost,
                progress=terminal.progress,
                ranks=ranks,
            )
        rundir.save_results(_results(plan, note, outcomes, tested, runner))
        done = replace(task, config=runner.config)
        rundir.save_report(
            report_page(done, runner.journal, outcomes, reached, plan, tested, _bad_files(runner), frontier, facts)
        )
        _conclude(terminal, rundir, outcomes, reached, plan, note, choices, tested, runner.config)
        if runner.lost.files:
            terminal.note(f"files that could not be read: {len(runner.lost.files)}, see lost_clips in results.json")
        rundir.log("end", plan=plan is not None, test_top1=tested.video_top1 if tested else None)
        return 0 if plan is not None else 1


def test(folder: Path, data: str | None, clips: int | None, terminal: Terminal, *, ranks: Ranks = ALONE) -> int:
    """Test the network of a finished run, on its own test videos or on `data`; returns the exit status."""
    if not RunDir.has_run(folder):
        raise UserError(f"there is no run in {folder}")
    rundir = RunDir(folder)
    config = rundir.load_config()
    if clips is not None:
        if clips < 1:
            raise UserError(f"--clips is {clips}; it must be at least 1")
        config = config.model_copy(update={"test": config.test.model_copy(update={"clips": clips})})
    graph = rundir.load_graph() if config.state_graph else None
    task = Task(config, graph, None if graph else rundir.load_replayed())
    whole = NetworkTest(rundir.network_file.absolute(), config, task.target, data)
    index = whole.open_videos(terminal.progress)
    device, _ = choose_device(config.device, ranks)
    lost = LostClips(config.data.max_bad_fraction, on_lost=terminal.lost)
    lost.check(index)
    precision = Precision(config.train.precision, device, "as trained")
    result = run_test(whole, index, precision, lost=lost, progress=terminal.progress, ranks=ranks)
    terminal.note(evaluation_line(data or "test videos", result, config.test))
    return 0


def _first_lines(runner: Runner, task: Task, resumed: bool) -> list[tuple[str, str]]:
    splits, bad = runner.splits, [*runner.splits.train.bad, *runner.splits.val.bad]
    counts = f"{len(splits.train)} training and {len(splits.val)} validation videos"
    counts += f", {len(splits.test)} for the test" if splits.test is not None else ", no test videos"
    rows = [
        ("run", f"{runner.rundir.path}{' (resumed)' if resumed else ''}"),
        ("data", f"{splits.origin}: {counts}, {len(splits.train.classes)} classes"),
        ("device", f"{runner.device}: {runner.device_why}"),
        ("workers", runner.ranks.describe(runner.device) or runner.choice.describe(runner.device)),
        ("loader", "one pipeline for all splits, another clip regime needs no rebuild"),
        ("decoder", runner.decoder_why),
        ("kernels", runner.kernels.line),
        ("precision", f"{runner.precision.name}: {runner.precision.why}"),
        ("network", f"{runner.config.network.name}, {runner.parameters:,} parameters"),
    ]
    if runner.pretrained:
        rows.append(("starts from", str(runner.pretrained)))
    elif task.plan is not None and (init := task.plan.provenance.get("init", "random weights")) != "random weights":
        rows.append(("note", f"the plan began from {init}, this run from random weights: network.pretrained=FILE"))
    if bad:
        named = "".join(f"\n{Path(v.path).parent.name}/{Path(v.path).name}: {v.reason}" for v in bad[:5])
        more = "\n... the others are listed in results.json" if len(bad) > 5 else ""
        rows.append(("left out", f"{len(bad)} videos that do not decode{named}{more}"))
    rows += [("crashed", _last_words(crash)) for crash in runner.crashes.found]
    if resumed:
        rows.append(("resumed", _found(runner.journal, task)))
        if (begun_with := runner.rundir.load_environment().get("ranks", 1)) != runner.ranks.world:
            rows.append(
                (
                    "note",
                    f"begun with {begun_with} ranks, goes on with {runner.ranks.world}: the same clips in the "
                    "same batches, but sums in another order, so not bit for bit what it would have been",
                )
            )
    if task.graph is not None and not resumed and runner.disk_free is not None and runner.disk_free < runner.disk.most:
        needed = f"{decimal(runner.disk_free)} of disk are free for checkpoints, up to {decimal(runner.disk.most)}"
        rows.append(("note", f"{needed} may be needed at a time: free some, or give checkpoints=FOLDER"))
    if task.graph is not None:
        batches = {state.effective_batch for state in task.graph.states}
        if len(batches) > 1:
            rows.append(("note", f"effective batch differs between states: {sorted(batches)}"))
    return rows


def _last_words(crash: Crash) -> str:
    where = "decoding no video"
    if crash.path is not None:
        where = f"decoding {crash.path}, which is left out from now on"
    return f"a process of this run ended by {crash.signal}, {where}; what its threads were doing: {crash.words}"


def _found(journal: Journal, task: Task) -> str:
    """What a resumed run has found: finished, begun and open edges."""
    keys = journal.edges()
    begun = [key for key in keys if journal.outcome(key) is None]
    first = [key for key in keys if not is_repeat(key)]
    under_way = "".join(f"\n{key.replace('>', ' -> ')}: after epoch {len(journal.epochs(key)) - 1}" for key in begun)
    all_edges = len(task.graph.edges) if task.graph is not None else len(task.states)
    still = max(all_edges - len(first), 0)
    return (
        f"{len(keys) - len(begun)} edges finished, {len(begun)} under way, {still} not begun; "
        f"epochs lost: none, no finished one is trained again{under_way}"
    )


def _results(
    plan: Plan | None, note: str, outcomes: Mapping[str, Outcome], tested: Evaluation | None, runner: Runner
) -> dict[str, Any]:
    splits = runner.splits
    bad = [*splits.train.bad, *splits.val.bad, *(splits.test.bad if splits.test else ())]
    return {
        "plan": None
        if plan is None
        else {
            "legs": [{"state": leg.state.name, "epochs": leg.epochs, "ended": leg.ended} for leg in plan.legs],
            "val_top1": plan.accuracy,
            "val_stderr": plan.stderr,
            "clip_frames": plan.cost,
            "seconds": plan.seconds,
        },
        "note": note,
        "test": None if tested is None else {**asdict(tested), "stderr": tested.stderr},
        "edges": [_as_json(outcome) for outcome in outcomes.values()],
        "search_clip_frames": sum(r.clip_frames for e in runner.journal.edges() for r in runner.journal.epochs(e)),
        "left_out": [asdict(video) for video in bad],
        "lost_clips": [asdict(clip) for clip in runner.lost.clips],
    }


def _bad_files(runner: Runner) -> dict[str, str]:
    """Every file that was left out or lost, and why."""
    splits = [split for split in (runner.splits.train, runner.splits.val, runner.splits.test) if split is not None]
    return {video.path: video.reason for split in splits for video in split.bad} | runner.lost.files


def _as_json(outcome: Outcome) -> dict[str, Any]:
    """Every field; what is no number in JSON (the accuracy of a diverged edge) becomes null."""
    fields = asdict(outcome)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def _conclude(
    terminal: Terminal,
    rundir: RunDir,
    outcomes: Mapping[str, Outcome],
    reached: Reached | None,
    plan: Plan | None,
    note: str,
    choices: list[str],
    tested: Evaluation | None,
    config: RunConfig,
) -> None:
    terminal.note("")
    print_table(terminal.console, search_table(list(outcomes.values()), reached))
    if plan is None:
        terminal.note(f"No plan: {note}")
        return
    print_table(terminal.console, plan_table(plan))
    for choice in choices:
        terminal.note(f"way into {choice}")
    if plan.accuracy is not None and plan.stderr is not None:
        terminal.note(f"validation: video top-1 {percent(plan.accuracy).strip()} % (± {percent(plan.stderr).strip()})")
    if tested is not None:
        terminal.note(evaluation_line("test", tested, config.test))
    terminal.note(f"plan: {rundir.plan_file}   network: {rundir.network_file}   report: {rundir.report_file}")
    terminal.note(f"train it again without a search: {_again(rundir, config)}")


def _again(rundir: RunDir, config: RunConfig) -> str:
    """The command that trains the plan again on the same videos, which a plan file does not name."""
    data = config.data
    words = ["fastplan", "train", "--plan", str(rundir.plan_file)]
    words += ["--data", data.train] if data.train else []
    words += ["--val", data.val] if data.val else []
    words += [f"data.test={data.test}"] if data.test else []
    return shlex.join(words)
