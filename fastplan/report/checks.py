"""What `fastplan check` shows: to a person a table and, by kind, what was found; to a program JSON."""

import json
import os
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from typing import TextIO, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastplan.check import Checked, CheckedVideos, Finding, Kind
from fastplan.report.console import print_table

_MOST_ROWS = 60
_MOST_NAMED = 5
_STYLES = {"bad": "red", "cut off": "red", "short": "yellow"}


def print_checked(console: Console, checked: CheckedVideos, source: str) -> None:
    """The table (of more than 60 videos a summary), every kind of finding with files and advice, and the verdict."""
    base = Path(os.path.abspath(source))  # as the index has it: links are not followed
    base = base if base.is_dir() else base.parent
    shown = _Videos(base) if len(checked) <= _MOST_ROWS else _Summary()
    counts: Counter[Kind] = Counter()
    named: dict[Kind, list[tuple[str, Finding]]] = defaultdict(list)
    frames = 0
    for one in checked:
        shown.add(one)
        frames += one.row["frames"]
        for finding in one.findings:
            counts[finding.kind] += 1
            if counts[finding.kind] <= _MOST_NAMED:
                named[finding.kind].append((_name(one, base), finding))
    print_table(console, shown.table())
    for kind in (kind for kind in get_args(Kind) if counts[kind]):
        style = _STYLES.get(kind, "cyan")
        console.print(f"\n[bold {style}]{kind}[/]: {counts[kind]} of {len(checked)}")
        for name, finding in named[kind]:
            console.print(f"  {escape(name)}: {escape(finding.detail)}", highlight=False, soft_wrap=True)
            console.print(f"    [dim]{escape(finding.advice)}[/dim]", highlight=False, soft_wrap=True)
        if counts[kind] > _MOST_NAMED:
            console.print(f"  and {counts[kind] - _MOST_NAMED} more; --json lists all", highlight=False)
    console.print(f"\n{_verdict(len(checked), int((~checked.good_F).sum()), frames)}", highlight=False)


def write_json(checked: CheckedVideos, stream: TextIO) -> None:
    """{"videos": [...], "counts": {kind: files}}, one object for a program, a video a line."""
    counts: Counter[Kind] = Counter()
    stream.write('{"videos": [')
    for number, one in enumerate(checked):
        counts.update(finding.kind for finding in one.findings)
        stream.write(f"{',' if number else ''}\n {json.dumps(one.as_json())}")
    stream.write(f'\n], "counts": {json.dumps(counts)}}}\n')


def _verdict(files: int, bad: int, frames: int) -> str:
    count = f"{files} {'file' if files == 1 else 'files'}, {frames:,} {'frame' if frames == 1 else 'frames'}; "
    if not bad:
        return count + ("it decodes" if files == 1 else "all of them decode")
    return count + f"{bad} {'is' if bad == 1 else 'are'} left out: see 'bad'"


def _name(one: Checked, base: Path) -> str:
    path = Path(one.row["path"])
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


class _Videos:
    """A table of all videos."""

    def __init__(self, base: Path) -> None:
        self._base, self._table = base, Table()
        for column in ("video", "frames", "fps", "seconds", "size", "codec", "GOP", "findings"):
            self._table.add_column(
                column, justify="left" if column in ("video", "codec", "findings") else "right", overflow="fold"
            )

    def add(self, one: Checked) -> None:
        row = one.row
        facts = ["", "", "", "", "", ""]
        if one.usable:
            turned = f" {row['rotation']}°" if row["rotation"] else ""
            facts = [
                str(row["frames"]),
                f"{row['fps']:.2f}" if row["fps"] else "",
                f"{row['duration_s']:.1f}" if row["duration_s"] else "",
                f"{row['width']}x{row['height']}{turned}",
                f"{row['codec']} {row['pixels']}",
                str(row["gop"]),
            ]
        kinds = ", ".join(f"[{_STYLES.get(f.kind, 'cyan')}]{f.kind}[/]" for f in one.findings)
        self._table.add_row(escape(_name(one, self._base)), *facts, kinds)

    def table(self) -> Table:
        return self._table


class _Summary:
    """A table of codecs; only counts are held."""

    def __init__(self) -> None:
        self._frames_of: dict[str, Counter[int]] = defaultdict(Counter)
        self._gops_of: dict[str, Counter[int]] = defaultdict(Counter)
        self._sizes_of: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, one: Checked) -> None:
        if one.usable:
            codec = f"{one.row['codec']} {one.row['pixels']}"
            self._frames_of[codec][one.row["frames"]] += 1
            self._gops_of[codec][one.row["gop"]] += 1
            self._sizes_of[codec][f"{one.row['width']}x{one.row['height']}"] += 1

    def table(self) -> Table:
        table = Table()
        for column in ("codec", "videos", "frames (fewest, median, most)", "sizes", "GOP (median)"):
            table.add_column(column, justify="left" if column in ("codec", "sizes") else "right")
        for codec, frames in sorted(self._frames_of.items(), key=lambda item: -item[1].total()):
            sizes = self._sizes_of[codec].most_common()
            others = f" and {len(sizes) - 2} more" if len(sizes) > 2 else ""
            table.add_row(
                codec,
                str(frames.total()),
                f"{min(frames)}, {_median(frames)}, {max(frames)}",
                ", ".join(size for size, _ in sizes[:2]) + others,
                str(_median(self._gops_of[codec])),
            )
        return table


def _median(counts: Counter[int]) -> int:
    """The value in the middle, the larger of two."""
    values = sorted(counts)
    return values[bisect_right(list(accumulate(counts[value] for value in values)), counts.total() // 2)]
