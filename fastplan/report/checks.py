"""What `fastplan check` shows: to a person a table and, by kind, what was found; to a program JSON."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastplan.check import Checked, Finding, Kind

_MOST_ROWS = 60
_MOST_NAMED = 5
_STYLES = {"bad": "red", "cut off": "red", "short": "yellow"}


def print_checked(console: Console, checked: Sequence[Checked], source: str) -> None:
    """The table (of more than 60 videos a summary), every kind of finding with files and advice, and the verdict."""
    base = Path(source).resolve()
    base = base if base.is_dir() else base.parent
    console.print(_videos_table(checked, base) if len(checked) <= _MOST_ROWS else _summary_table(checked))
    by_kind: dict[str, list[tuple[Checked, Finding]]] = defaultdict(list)
    for one in checked:
        for finding in one.findings:
            by_kind[finding.kind].append((one, finding))
    for kind in (kind for kind in get_args(Kind) if kind in by_kind):
        found = by_kind[kind]
        style = _STYLES.get(kind, "cyan")
        console.print(f"\n[bold {style}]{kind}[/]: {len(found)} of {len(checked)}")
        for one, finding in found[:_MOST_NAMED]:
            console.print(f"  {escape(_name(one, base))}: {escape(finding.detail)}", highlight=False, soft_wrap=True)
            console.print(f"    [dim]{escape(finding.advice)}[/dim]", highlight=False, soft_wrap=True)
        if len(found) > _MOST_NAMED:
            console.print(f"  and {len(found) - _MOST_NAMED} more; --json lists all", highlight=False)
    bad = sum(not one.usable for one in checked)
    frames = sum(one.row["frames"] for one in checked)
    verdict = f"{bad} are left out: see 'bad'" if bad else "all of them decode"
    console.print(f"\n{len(checked)} files, {frames:,} frames; {verdict}", highlight=False)


def checked_json(checked: Sequence[Checked]) -> str:
    """{"videos": [...], "counts": {kind: files}}, one object for a program."""
    counts = Counter(finding.kind for one in checked for finding in one.findings)
    return json.dumps({"videos": [one.as_json() for one in checked], "counts": counts}, indent=1)


def _name(one: Checked, base: Path) -> str:
    path = Path(one.row["path"])
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _videos_table(checked: Sequence[Checked], base: Path) -> Table:
    table = Table()
    for column in ("video", "frames", "fps", "seconds", "size", "codec", "GOP", "findings"):
        table.add_column(
            column, justify="left" if column in ("video", "codec", "findings") else "right", overflow="fold"
        )
    for one in checked:
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
        table.add_row(escape(_name(one, base)), *facts, kinds)
    return table


def _summary_table(checked: Sequence[Checked]) -> Table:
    table = Table()
    for column in ("codec", "videos", "frames (fewest, median, most)", "sizes", "GOP (median)"):
        table.add_column(column, justify="left" if column in ("codec", "sizes") else "right")
    by_codec: dict[str, list[Checked]] = defaultdict(list)
    for one in checked:
        if one.usable:
            by_codec[f"{one.row['codec']} {one.row['pixels']}"].append(one)
    for codec, videos in sorted(by_codec.items(), key=lambda item: -len(item[1])):
        frames = sorted(one.row["frames"] for one in videos)
        gops = sorted(one.row["gop"] for one in videos)
        sizes = Counter(f"{one.row['width']}x{one.row['height']}" for one in videos).most_common()
        others = f" and {len(sizes) - 2} more" if len(sizes) > 2 else ""
        table.add_row(
            codec,
            str(len(videos)),
            f"{frames[0]}, {frames[len(frames) // 2]}, {frames[-1]}",
            ", ".join(size for size, _ in sizes[:2]) + others,
            str(gops[len(gops) // 2]),
        )
    return table
