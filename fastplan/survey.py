"""The commands `check` and `networks`: what is there and what it costs, without training.

Imports are inside, so that counting networks does not wait for the video libraries, nor the other way round.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastplan.errors import UserError

if TYPE_CHECKING:
    from fastplan.config import DataConfig
    from fastplan.data.lists import VideoList

SHEET = "fastplan-clips.html"
_MOST_SHOWN = 500  # clips of a sheet: 20 MB


def check(arguments: argparse.Namespace) -> int:
    """Probe videos and print, write or draw what was found; returns 1 where some do not decode."""
    import pyarrow as pa

    from fastplan.check import CheckedVideos, write_fix_list
    from fastplan.config import build_config, parse_override
    from fastplan.data.export import write_index
    from fastplan.data.index import probe_files
    from fastplan.data.lists import stray_videos
    from fastplan.data.splits import cache_dir, list_videos
    from fastplan.report.checks import print_checked, write_json
    from fastplan.report.console import Bars, make_console

    if arguments.span < 1:
        raise UserError(f"--span is {arguments.span}; it must be at least 1")
    if arguments.show is not None and not 1 <= arguments.show <= _MOST_SHOWN:
        raise UserError(f"--show is {arguments.show}; a sheet holds 1 to {_MOST_SHOWN} clips")
    if arguments.index and arguments.index.suffix != ".parquet":
        raise UserError(f"--index is {arguments.index}; its name must end with .parquet")
    pa.set_memory_pool(pa.system_memory_pool())
    data = build_config([(f"'{word}'", parse_override(word)) for word in arguments.overrides]).data
    listed = list_videos(arguments.data, data, labelled=False)
    with Bars(make_console(stderr=True)) as bars:
        store, rows = probe_files(
            listed.places,
            cache_dir=cache_dir(data) / "index",
            threads=data.threads or len(os.sched_getaffinity(0)),
            on_video=bars.progress("Probing videos", listed.files),
            limit_s=data.probe_limit_s,
            hash_content=arguments.hash,
        )
    checked = CheckedVideos(listed, rows, span=arguments.span)
    if arguments.show and checked.good_F.any():
        _show(arguments, listed, data)
    elif arguments.show:
        print(f"no {SHEET}: there is no video that decodes", file=sys.stderr)
    if arguments.index:
        lines = write_index(arguments.index, listed, store, rows)
        print(f"{arguments.index} has {lines} {'row' if lines == 1 else 'rows'}", file=sys.stderr)
    if arguments.fix_list:
        lines = write_fix_list(arguments.fix_list, listed, checked.good_F)
        print(f"{arguments.fix_list} lists {lines} {'video' if lines == 1 else 'videos'}", file=sys.stderr)
    if not listed.classes and (strays := stray_videos(arguments.data)):
        print(f"no classes, since {strays[0]} lies beside the folders: training would refuse this", file=sys.stderr)
    if arguments.json:
        write_json(checked, sys.stdout)
    else:
        print_checked(make_console(), checked, arguments.data)
    return 0 if checked.good_F.all() else 1


def networks(arguments: argparse.Namespace) -> int:
    """Print what networks cost, or what their blocks run on; returns the exit status."""
    from fastplan.clips import ClipSpec
    from fastplan.models.cost import measure
    from fastplan.models.networks import NETWORKS, network_spec
    from fastplan.report.console import Bars, make_console, print_table
    from fastplan.report.networks import costs_json, costs_table

    if arguments.kernels:
        return _print_kernels(arguments.names)
    names, frames, size = arguments.names or list(NETWORKS), sorted(set(arguments.frames)), arguments.size
    for length in frames:
        ClipSpec.consecutive(length, size=size)  # a mistake is named before anything is counted
    for name in names:
        network_spec(name)
    costs = []
    with Bars(make_console(stderr=True)) as bars:
        step = bars.progress("Counting", len(names))
        for name in names:
            costs.append(measure(name, frames=frames, size=size, classes=400))
            step()
    if arguments.json:
        print(costs_json(costs, size))
    else:
        print_table(make_console(), costs_table(costs, frames, size))
    return 0


def _print_kernels(names: list[str]) -> int:
    import torch

    from fastplan.models.choices import ends_in_gemm, kernel_choices
    from fastplan.models.networks import build_network
    from fastplan.report.console import make_console, print_table
    from fastplan.report.networks import kernels_table

    if not names:
        raise UserError("say of which networks: fastplan networks dg_p3d_50 --kernels")
    for name in names:
        with torch.device("meta"):
            network = build_network(name, 400)
        if choices := kernel_choices(network):
            print_table(make_console(), kernels_table(name, choices, ends_in_gemm(network)))
        else:
            print(f"{name} has no block that the kernels run: PyTorch's operators on every device")
    return 0


def _show(arguments: argparse.Namespace, listed: "VideoList", data: "DataConfig") -> None:
    from fastplan.clips import ClipSpec
    from fastplan.data.index import build_index
    from fastplan.data.splits import cache_dir
    from fastplan.report.sheet import sheet_page

    threads = data.threads or len(os.sched_getaffinity(0))
    index = build_index(listed, cache_dir=cache_dir(data) / "index", threads=threads, limit_s=data.probe_limit_s)
    spec = ClipSpec.consecutive(8, stride=max(arguments.span // 8, 1), size=160)
    page = sheet_page(index, data.augment, spec, clips=arguments.show, threads=threads)
    Path(SHEET).write_text(page, encoding="utf-8")
    print(f"{SHEET} shows {arguments.show} clips", file=sys.stderr)
