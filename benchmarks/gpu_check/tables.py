"""Rows of a journal as Markdown tables, one function for each stage; medians stand with p20 and p80 in brackets."""

from collections.abc import Iterable, Sequence
from typing import Any

from fastplan.benchmarks.gpu_check.units import Record, Row


def rows_of(records: Iterable[Record]) -> list[Row]:
    """All rows that were found, those of units that then failed included."""
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


def steps(records: Iterable[Record]) -> str:
    """Every arm beside the eager plain network of the same shape, the fastest of a shape first."""
    rows = rows_of(records)
    equal, rows = ([row for row in rows if key in row] for key in ("equality", "network"))
    body = []
    for row in sorted(rows, key=lambda row: (row["shape"], row["us"]["p50"] if row["us"] else float("inf"))):
        body.append(
            (
                *(row["shape"], row["network"], how(row), median(row["us"], unit="ms"), row["us"] and row["us"]["n"]),
                *(short(row["clips_per_s"]), short(ratio(_plain(rows, row), row["us"]))),
                short(row["peak_bytes"] / 1e9) if row["peak_bytes"] else None,
                _errors(row["errors"]) + ("" if row["correct"] else " WRONG"),
                *("yes" if row["repeats"] else "no", short(row["first_s"])),
            )
        )
    header = ("batch x frames", "network", "run", "ms", "n", "clips/s", "times eager Conv3d", "peak GB", "errors")
    first = [
        (r["equality"], _errors(r["errors"]) + ("" if r["correct"] else " WRONG"), _errors(r["allowed"])) for r in equal
    ]
    beside = table(("fp32 beside Conv3d", "errors", "allowed"), first)
    return (beside + "\n" if first else "") + table((*header, "same bits again", "first step s"), body)


inference = steps


def nvdec(records: Iterable[Record]) -> str:
    """Seeking, then every way of sending clips."""
    rows = rows_of(records)
    places = [(r["place"], median(r["us"], unit="ms"), short(r["frames_per_s"])) for r in rows if "place" in r]
    body = [
        (
            *(row["regime"], row["gop"], row["way"], short(row["frames_per_s"]), short(row["decoded_per_s"])),
            *(short(row["percent_of_limit"]), short(row["bytes_per_clip"] / 1e3), short(row["cut_ms_per_clip"])),
            *("yes" if row["equal"] else "NO", {True: "", False: "WRONG", None: ""}[row.get("correct")]),
        )
        for row in rows
        if "way" in row
    ]
    header = (
        *("16 frames", "keyframe every", "sent", "wanted frames/s", "decoded frames/s", "% of the limit", "kB/clip"),
        *("ms to cut a clip", "pixels of the whole file", ""),
    )
    facts = []
    for row in rows:
        if "seeks" in row:
            found = "yes" if row["seeks"] else "no"
            facts.append(
                f"Seeks in a whole file: {found}; a clip at its end takes {row['end_over_beginning']:.2f} times"
            )
            facts.append("one at its beginning.\n")
        elif "limit_frames_per_s" in row:
            facts.append(f"The limit, all pictures of a file wanted: {row['limit_frames_per_s']:.0f} frames/s.\n")
    parts = (table(("clips from the", "ms a batch", "frames/s"), places), table(header, body))
    return "\n".join((*facts, *parts))


def how(row: Row) -> str:
    """How an arm is run, in words."""
    words = [row["execution"], *["deterministic"] * row["deterministic"], *["CUDA graph"] * row["graph"]]
    return ", ".join(words)


def _plain(rows: Iterable[Row], row: Row) -> dict[str, float] | None:
    """Times of the eager plain network at the same shape."""
    same = [r for r in rows if r["shape"] == row["shape"] and r["network"] == "plain" and how(r) == "eager"]
    return same[0]["us"] if same else None


def _errors(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def left_out(records: Iterable[Record]) -> str:
    """Units that failed or were skipped, and why."""
    return table(
        ("unit", "", "why"),
        [(r["unit"], r["status"], r["reason"]) for r in records if r["status"] in ("failed", "skipped")],
    )
