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
        if any(record["status"] == "done" for record in records):
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
    lines += [f"  FAILED {record['unit']}: {record['reason']}" for record in _failed(check)[:8]]
    lines += [f"  WRONG {row['op']}: error {row['error']:.2g}" for row in wrong_rows(check)[:8] if "op" in row]
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


def _edits(check: Check) -> list[str]:
    return dispatch.edits(check.stages["ops"], check.facts["gpu"], check.date)


def _headline(name: str, records: list[Record]) -> list[str]:
    rows = tables.rows_of(records)
    if name == "correct" and rows:
        worst = {
            dtype: max(row["error"] for row in rows if row["dtype"] == dtype) for dtype in {r["dtype"] for r in rows}
        }
        return ["worst error " + ", ".join(f"{dtype} {error:.1g}" for dtype, error in sorted(worst.items()))]
    if name == "ops" and any("copy_gb_per_s" in row for row in rows):
        limits = next(row for row in rows if "copy_gb_per_s" in row)
        return [f"copy {limits['copy_gb_per_s']:.0f} GB/s, bf16 matrix {limits['matrix_tflop_per_s']:.0f} TFLOP/s"]
    return []
