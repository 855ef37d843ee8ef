"""The journals of a check as JSON, Markdown and a few last lines for the terminal."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from fastplan.benchmarks.gpu_check import dispatch, tables
from fastplan.benchmarks.gpu_check.units import Record

_MEANINGLESS = "INTERPRETED on the CPU with tiny shapes: the times mean nothing."


class Check(NamedTuple):
    """All there is to report. facts: of `machine`. states: clocks and power before and after each stage."""

    facts: dict[str, Any]
    date: str
    interpreted: bool
    states: dict[str, dict[str, str]]
    stages: dict[str, list[Record]]


def write(check: Check, folder: Path) -> None:
    """results.json and results.md in ``folder``."""
    (folder / "results.json").write_text(json.dumps(check._asdict(), indent=1), encoding="utf-8")
    (folder / "results.md").write_text(markdown(check), encoding="utf-8")


def markdown(check: Check) -> str:
    """Everything, stage by stage."""
    parts = [f"# {check.facts['gpu']}, {check.date}\n"]
    if check.interpreted:
        parts.append(f"**{_MEANINGLESS}**\n")
    parts.append(tables.table(("what", ""), check.facts.items()))
    parts.append("Medians with p20 to p80 in brackets; n and all quantiles are in results.json.\n")
    for name, records in check.stages.items():
        parts.append(f"## {name}\n")
        show = getattr(tables, name)
        if tables.rows_of(records):
            parts.append(show(records))
        if any(record["status"] != "done" for record in records):
            parts.append("Left out:\n\n" + tables.left_out(records))
        if name == "ops":
            parts.append("For `kernels/table.py`:\n\n```python\n" + "\n".join(_edits(check)) + "\n```\n")
    states = sorted({key for state in check.states.values() for key in state})
    body = [(when, *(state.get(key, "") for key in states)) for when, state in check.states.items()]
    if states:
        parts.append("## Clocks and power\n\n" + tables.table(("when", *states), body))
    return "\n".join(parts)


def summary(check: Check) -> str:
    """A short table: what every stage found, then what contradicts the dispatch table."""
    lines = [f"{check.facts['gpu']}, {check.date}" + (f"; {_MEANINGLESS}" if check.interpreted else "")]
    for name, records in check.stages.items():
        counts = {
            status: sum(record["status"] == status for record in records) for status in ("done", "failed", "skipped")
        }
        counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing to do"
        lines.append(f"  {name:<10} {counted}" + "".join(f"; {line}" for line in _headline(name, records)))
        lines += _networks(records)
    lines += [f"  FAILED {record['unit']}: {record['reason']}" for record in _failed(check)[:8]]
    lines += [f"  WRONG {_what(row)}" for row in wrong_rows(check)[:8]]
    if "ops" in check.stages and not check.interpreted:
        judged = dispatch.verdicts(check.stages["ops"])
        held = sum(verdict.holds is True for verdict in judged)
        against = [verdict for verdict in judged if verdict.holds is False]
        lines.append(f"  dispatch table: {held} of {len(judged)} measured entries hold, {len(against)} contradicted")
        lines += [
            f"    {v.case.name}: {'fused' if v.fused_now else 'composed'} now, ours is {v.ratio:.2f}x" for v in against
        ]
    return "\n".join(lines)


def other_machine(folder: Path, facts: dict[str, Any]) -> str:
    """What an earlier check in ``folder`` ran on, if it was something else than ``facts``; else nothing."""
    if not (folder / "results.json").exists():
        return ""
    before = json.loads((folder / "results.json").read_text(encoding="utf-8"))["facts"]
    differing = [f"{key} {before.get(key)}" for key in ("gpu", "torch", "triton") if before.get(key) != facts[key]]
    return ", ".join(differing)


def wrong_rows(check: Check) -> list[dict[str, Any]]:
    """Rows of results that are not what they must be."""
    return [row for records in check.stages.values() for row in tables.rows_of(records) if row.get("correct") is False]


def passed(check: Check) -> bool:
    """Whether nothing failed and nothing was wrong; what was skipped for want of time or parts is no failure."""
    return not _failed(check) and not wrong_rows(check)


def _failed(check: Check) -> list[Record]:
    return [record for records in check.stages.values() for record in records if record["status"] == "failed"]


def _what(row: dict[str, Any]) -> str:
    """A wrong row in few words."""
    named = [
        str(row[key]) for key in ("op", "shape", "network", "execution", "equality", "regime", "way") if key in row
    ]
    return ", ".join([*named, f"error {row.get('error', row.get('errors', ''))}"])


def _edits(check: Check) -> list[str]:
    return dispatch.edits(check.stages["ops"], check.facts["gpu"], check.date)


def _headline(name: str, records: list[Record]) -> list[str]:
    rows = tables.rows_of(records)
    if name == "correct" and rows:
        formats = sorted({row["dtype"] for row in rows})
        worst = {dtype: max(row["error"] for row in rows if row["dtype"] == dtype) for dtype in formats}
        return ["worst error " + ", ".join(f"{dtype} {error:.1g}" for dtype, error in worst.items())]
    if name == "ops" and any("copy_gb_per_s" in row for row in rows):
        limits = next(row for row in rows if "copy_gb_per_s" in row)
        return [f"copy {limits['copy_gb_per_s']:.0f} GB/s, bf16 matrix {limits['matrix_tflop_per_s']:.0f} TFLOP/s"]
    if name == "nvdec":
        return [f"seeks: {'yes' if row['seeks'] else 'no'}" for row in rows if "seeks" in row]
    return []


def _networks(records: list[Record]) -> list[str]:
    """Per shape the fastest arm of each network: ms, and how much faster ours is than eager Conv3d and than the best of
    torch.compile without our kernels.
    """
    rows = [row for row in tables.rows_of(records) if row.get("network") and row["us"]]
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        here = [row for row in rows if row["shape"] == shape]
        best = {form: _fastest(here, form) for form in ("plain", "views", "ours")}
        cells = [f"{form} {row['us']['p50'] / 1e3:.1f} ms ({tables.how(row)})" for form, row in best.items() if row]
        eager = next((row for row in here if row["network"] == "plain" and tables.how(row) == "eager"), None)
        rivals = [row for row in here if row["network"] != "ours" and row["execution"] != "eager"]
        compiled = min(rivals, key=lambda row: row["us"]["p50"], default=None)
        gains = [
            f"{rival['us']['p50'] / best['ours']['us']['p50']:.2f}x {what}"
            for what, rival in (("eager Conv3d", eager), ("the best torch.compile", compiled))
            if rival and best["ours"]
        ]
        lines.append(f"    {shape}: {'; '.join(cells)}")
        lines.append(f"      ours over: {', '.join(gains)}" if gains else "      ours: not measured")
    return lines


def _fastest(rows: list[dict[str, Any]], form: str) -> dict[str, Any] | None:
    mine = [row for row in rows if row["network"] == form]
    return min(mine, key=lambda row: row["us"]["p50"], default=None)
