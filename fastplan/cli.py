"""The command line: parse, call, print."""

import argparse
import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fastplan import __version__, survey
from fastplan.configs import default_file
from fastplan.errors import UserError
from fastplan.own_python import module_command

if TYPE_CHECKING:
    from fastplan.launch import Request
    from fastplan.train.distributed import Ranks

_TRAIN_EXAMPLES = """\
examples:
  fastplan train --state-graph default
      search the embedded task: makes its videos once, finds a plan, trains it, writes a report
  fastplan train --state-graph small --data videos/ --run runs/mine
      search on your own videos: a folder with one sub-folder per class
  fastplan train --run runs/mine --resume
      go on after an interruption; nothing that was finished is trained again
  fastplan train --plan runs/mine/plan.yaml --data videos/ --seed 1
      train the plan that was found from scratch, without a search
  fastplan train --state-graph paper-sparse --data train.txt --val val.txt network.name=dg_p3d_101
      settings of the configuration are given as key.sub=value
"""


_SETTINGS = f"settings; {default_file()} lists them all".replace("%", "%%")

_CHECK_EXAMPLES = """\
examples:
  fastplan check videos/
      a table, and everything that is worth knowing about single files
  fastplan check videos/ --span 64 --hash --fix-list clean.csv
      videos shorter than 64 frames, videos that are there twice; a list of what is left, for --data clean.csv
  fastplan check train.csv --index train.parquet
      one row a video for pandas or DuckDB: label, group, facts, and every packet (docs/data.md lists the columns)
  fastplan check train.csv --json data.threads=8
      the same for a program; progress goes to standard error

exit status: 0 every video decodes, 1 some do not and would be left out, 2 there is nothing to check, 130 interrupted
"""


_BENCHES = {
    "kernels": ("bench_kernels", "Triton kernels on a GPU: right in every configuration? how fast beside PyTorch?"),
    "loader": ("bench_loader", "the loader beside torchcodec, decord, PyAV and pytorchvideo, on equal clips"),
    "memory": ("bench_memory", "memory over 2,000 iterations while the clip regime changes"),
    "index": ("bench_index", "memory and time of `fastplan check` on 1,000 and 10,000 files"),
    "bound": ("bound", "what bounds this machine for a state graph: reading clips or the network"),
    "plan": ("bench_plan", "does planning pay? schedules, halving and searches trained at equal clip-frames"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 no result, 2 a mistake of the user's, 130 interrupted."""
    arguments = None
    try:
        with _open_ranks() as ranks:
            if ranks is not None and ranks.rank:
                from fastplan.workers.ranks import follow

                follow(ranks)
                return 0
            arguments = _parse(argv)
            arguments.ranks = ranks
            return int(arguments.run_command(arguments))
    except UserError as error:
        print(f"fastplan: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever reads has seen enough: fastplan | head
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        again = getattr(arguments, "again", "run it again")
        print(f"fastplan: {error.strerror}; what was saved is intact: free some space, then {again}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = getattr(arguments, "interrupted", "")
        print(f"\nfastplan: interrupted{kept and f'; {kept}'}", file=sys.stderr)
        return 130


def _open_ranks() -> "AbstractContextManager[Ranks | None]":
    """The ranks that torchrun started; None, and nothing imported for it, without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return nullcontext()
    from fastplan.train.distributed import open_ranks

    return open_ranks()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes `key.sub=value` words in one place only; here they may stand between flags."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") or "=" not in word for word in rest) or (rest and "overrides" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastplan", description="Optimization planning for 3D ConvNets: find the training schedule, then train it."
    )
    parser.add_argument("--version", action="version", version=f"fastplan {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="search a state graph, or train a plan again",
        description="Search a state graph for the best training path and keep its network, or train a plan again.",
        epilog=_TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_request(train)
    train.add_argument(
        "--workers",
        metavar="N|ray[:N]",
        default="1",
        help="train N edges of a search at once: a GPU each, or a share of the cores; ray uses a Ray cluster",
    )
    train.add_argument("--exact", action="store_true", help="with --plan: train exactly its epochs, no knees")
    train.add_argument("--run", type=Path, metavar="DIR", help="run folder (default: runs/NAME-DATE-TIME)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --run DIR")
    train.set_defaults(run_command=_train)

    plan = commands.add_parser(
        "plan",
        help="show what a search would do, without training",
        description="Dry run: the states, edges and their order, effective batches and clip spans of a graph or plan.",
    )
    _add_request(plan)
    plan.add_argument(
        "--probe", action="store_true", help="measure some steps of every state first, and say what it costs"
    )
    plan.add_argument("--draw", type=Path, metavar="FILE", help="draw the graph or the plan, as .svg, .pdf or .png")
    plan.set_defaults(run_command=_plan, exact=False)

    test = commands.add_parser(
        "test",
        help="test the network of a run",
        description="Test a finished run's network: several clips per video, mean of their softmax outputs.",
    )
    test.add_argument("--run", type=Path, metavar="DIR", required=True, help="run folder")
    test.add_argument("--data", metavar="DIR|LIST", help="videos to test on (default: the run's own test videos)")
    test.add_argument("--clips", type=int, metavar="N", help="clips per video (default: the run's test.clips)")
    test.set_defaults(run_command=_test)

    check = commands.add_parser(
        "check",
        help="look at videos before training on them",
        description="Decode every video once, say what is in it, what is wrong with it and what would mend it.\n"
        "What was seen is kept, so training does not look again, and a second check looks at what has changed only.",
        epilog=_CHECK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("data", metavar="DATA", help="a video, a folder of videos, a folder per class, a list, shards")
    check.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    check.add_argument("--fix-list", type=Path, metavar="FILE", help="write a list without the bad videos (.csv, .txt)")
    check.add_argument("--index", type=Path, metavar="FILE", help="write facts, labels and packet tables as Parquet")
    check.add_argument("--span", type=int, metavar="N", default=16, help="frames a clip spans; fewer is short (16)")
    check.add_argument("--show", type=int, metavar="N", help=f"write {survey.SHEET} with N augmented clips")
    check.add_argument("--hash", action="store_true", help="compare contents too, and name videos that are there twice")
    check.add_argument("overrides", nargs="*", default=[], metavar="key.sub=value", help=_SETTINGS)
    kept = "what was probed is kept: run it again to go on"
    check.set_defaults(run_command=survey.check, interrupted=kept)

    networks = commands.add_parser(
        "networks",
        help="list the networks, what they cost and which clips they take",
        description="The networks of network.name: parameters, multiply-adds of a clip, shortest clip. Nothing is "
        "computed, so no GPU is needed.",
    )
    networks.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    networks.add_argument(
        "--frames", type=int, nargs="+", metavar="N", default=[16, 32, 64], help="clip lengths (16 32 64)"
    )
    networks.add_argument("--size", type=int, metavar="PX", default=224, help="side of a clip in pixels (224)")
    networks.add_argument("--json", action="store_true", help="print JSON instead of a table")
    networks.add_argument(
        "--kernels", action="store_true", help="say of each shape of convolution what computes it on a GPU, and why"
    )
    networks.set_defaults(run_command=survey.networks)

    listed = "\n".join(f"  {name:<10}{what}" for name, (_, what) in _BENCHES.items())
    bench = commands.add_parser(
        "bench",
        help="measure this machine",
        description="Measure a part of fastplan: equal results are shown first, then times.\n"
        "Without a name: the quick forms of all that have one, in 90 seconds, and at the end what bounds this machine.",
        epilog=f"benches:\n{listed}\n\n`fastplan bench NAME --help` lists what a bench takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("name", nargs="?", choices=tuple(_BENCHES), metavar="NAME", help="one of those below")
    bench.add_argument("--data", metavar="DIR|LIST|VIDEO", help="without a name: your videos (default: made ones)")
    bench.add_argument("--state-graph", metavar="NAME|FILE", help="without a name: what to train (default: default)")
    bench.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="for the bench")
    bench.set_defaults(run_command=_bench)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine has",
        description="Versions, GPU, NVDEC, what DALI decodes, optional parts.",
    )
    doctor.set_defaults(run_command=_doctor)
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-graph",
        metavar="NAME|FILE",
        help="graph to search: a shipped name (default, tiny, small, ...) or a file",
    )
    parser.add_argument("--plan", metavar="NAME|FILE", help="plan to train instead: a shipped name or a plan.yaml")
    parser.add_argument("--data", metavar="DIR|LIST", help="training videos: a folder per class, or a list file")
    parser.add_argument("--val", metavar="DIR|LIST", help="validation videos, which decide (default: plan.holdout)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML settings; a run's config.yaml works too")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to train (default: auto)")
    parser.add_argument(
        "--budget",
        metavar="40h|200e|3e6f",
        help="what training may cost: hours of device time, epochs or clip-frames; picks from a frontier with --plan",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="fixes every random choice (default: 0)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=_SETTINGS)


def _request(arguments: argparse.Namespace) -> "Request":
    from fastplan.launch import Request

    return Request(
        config=arguments.config,
        state_graph=arguments.state_graph,
        plan=arguments.plan,
        exact=arguments.exact,
        data=arguments.data,
        val=arguments.val,
        device=arguments.device,
        seed=arguments.seed,
        budget=arguments.budget,
        overrides=tuple(arguments.overrides),
    )


def _train(arguments: argparse.Namespace) -> int:
    from fastplan.commands import train
    from fastplan.launch import open_run
    from fastplan.report.terminal import Terminal
    from fastplan.train.distributed import ALONE
    from fastplan.workers.choice import WorkerChoice

    workers = WorkerChoice.parse(arguments.workers)
    rundir, task, resumed = open_run(_request(arguments), arguments.run, resume=arguments.resume)
    arguments.again = shlex.join(["fastplan", "train", "--run", str(rundir.path), "--resume"])
    try:
        with closing(rundir), Terminal() as terminal:
            return train(rundir, task, resumed, workers, terminal, ranks=arguments.ranks or ALONE)
    except KeyboardInterrupt:
        if rundir.has_run(rundir.path):
            arguments.interrupted = f"finished epochs are kept, go on with: {arguments.again}"
        raise


def _plan(arguments: argparse.Namespace) -> int:
    from fastplan.dryrun import plan
    from fastplan.launch import resolve
    from fastplan.report.terminal import Terminal

    task = resolve(_request(arguments))
    with Terminal() as terminal:
        return plan(task, terminal, draw=arguments.draw, probing=arguments.probe)


def _test(arguments: argparse.Namespace) -> int:
    from fastplan.commands import test
    from fastplan.report.terminal import Terminal
    from fastplan.train.distributed import ALONE

    with Terminal() as terminal:
        return test(arguments.run, arguments.data, arguments.clips, terminal, ranks=arguments.ranks or ALONE)


def _bench(arguments: argparse.Namespace) -> int:
    data = ["--data", arguments.data] if arguments.data else []
    graph = ["--state-graph", arguments.state_graph] if arguments.state_graph else []
    module, _ = _BENCHES.get(arguments.name, ("quick", ""))
    words = [*graph, *data, *arguments.arguments]
    return subprocess.call(module_command(f"fastplan.benchmarks.{module}", *words))


def _doctor(arguments: argparse.Namespace) -> int:
    from fastplan.doctor import examine
    from fastplan.report.terminal import Terminal
    from fastplan.train.distributed import ALONE

    Terminal().facts(examine(arguments.ranks or ALONE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
