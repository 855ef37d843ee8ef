"""Rows of a journal as Markdown tables, one function for each stage; medians stand with p20 and p80 in brackets."""

from collections.abc import Iterable, Sequence
from typing import Any

from fastplan.benchmarks.gpu_check.units import Record, Row


def rows_of(records: Iterable[Record]) -> list[Row]:
    """All rows of the units that were done."""
    return [row for record in records for row in record.get("rows", ())]


def table(header: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None is an empty cell."""
    lines = [" | ".join(header), "|".join(["---"] * len(header))]
    lines += [" | ".join("" if cell is None else str(cell) for cell in cells) for cells in body]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines) + "\n"


def median(us: dict[str, float] | None, *, unit: str = "us") -> str | None:
    """``123 (120 to 130)`` in microseconds or milliseconds."""
    if us is None:
        return None
    scale = 1e-3 if unit == "ms" else 1.0
    return f"{short(us['p50'] * scale)} ({short(us['p20'] * scale)} to {short(us['p80'] * scale)})"


def short(value: float | None) -> str | None:
    """Three significant digits, without exponents for everyday sizes."""
    if value is None:
        return None
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def ratio(over: dict[str, float] | None, under: dict[str, float] | None) -> float | None:
    """Median over median."""
    return over["p50"] / under["p50"] if over and under else None


def correct(records: Iterable[Record]) -> str:
    """Worst error by operator, format and configuration."""
    header = ("operator", "format", "configuration", "worst error", "tolerance", "same bits again", "")
    body = [
        (row["op"], row["dtype"], row["configuration"], f"{row['error']:.2g}", f"{row['tolerance']:.0e}")
        + ("yes" if row["repeats"] else "NO", "" if row["correct"] else "WRONG")
        for row in rows_of(records)
    ]
    return table(header, body)


def ops(records: Iterable[Record]) -> str:
    """Ours, eager and torch.compile side by side, then the configurations that are not in use."""
    rows = [row for row in rows_of(records) if "op" in row]
    arms = {(row["op"], row["direction"], row["arm"], row["configuration"]): row for row in rows}
    body = []
    for (op, direction, arm, rank), row in arms.items():
        if arm != "ours" or rank:
            continue
        ours, eager, compiled = (
            arms.get((op, direction, name, 0), {}).get("us") for name in ("ours", "eager", "compile")
        )
        body.append(
            (
                *(op, row["shape"], direction, median(ours), median(eager), median(compiled)),
                *(short(ratio(eager, ours)), short(ratio(compiled, ours))),
                *(short(row.get(key)) for key in ("gb_per_s", "percent_of_copy", "tflop_per_s", "percent_of_matrix")),
                f"{row['error']:.2g}" + ("" if row["correct"] else " WRONG"),
            )
        )
    header = (
        *("operator", "x", "direction", "ours us", "eager us", "torch.compile us", "eager / ours", "compile / ours"),
        *("GB/s", "% of copy", "TFLOP/s", "% of matrix rate", "error"),
    )
    others = [
        (op, rank, median(row.get("us")), short(ratio(row.get("us"), arms.get((op, "both", "ours", 0), {}).get("us"))))
        + (f"{row['error']:.2g}" + ("" if row["correct"] else " WRONG"),)
        for (op, _, _, rank), row in arms.items()
        if rank
    ]
    second = table(("operator", "configuration", "both directions us", "over the one in use", "error"), others)
    return table(header, body) + ("\n" + second if others else "")


def left_out(records: Iterable[Record]) -> str:
    """Units that failed or were skipped, and why."""
    return table(
        ("unit", "", "why"),
        [(r["unit"], r["status"], r["reason"]) for r in records if r["status"] in ("failed", "skipped")],
    )
