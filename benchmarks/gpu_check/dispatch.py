"""From measured operators to the dispatch table: which entries of `kernels/table.py` hold, and what to edit.

An entry says that an operator of ours is used at some shape, or that PyTorch's is. It holds if the one in use was the
faster, forward and backward together, against the better of eager and torch.compile.
"""

from collections.abc import Iterable
from typing import NamedTuple

from fastplan.benchmarks.gpu_check.tables import rows_of
from fastplan.benchmarks.gpu_check.units import Record, Row
from fastplan.benchmarks.kernel_cases import CASES, Case
from fastplan.kernels import table

_TIE = 1.03  # medians closer than this decide nothing


class Verdict(NamedTuple):
    """ratio: the rival's time over ours. holds: None for a tie."""

    case: Case
    ratio: float
    fused_now: bool
    holds: bool | None


def verdicts(records: Iterable[Record]) -> list[Verdict]:
    """One for every case of which ours and a rival were timed in both directions."""
    rows = [row for row in rows_of(records) if row.get("direction") == "both" and "us" in row]
    found = []
    for case in CASES:
        ours = _times(rows, case, ("ours",))
        rivals = _times(rows, case, ("eager", "compile"))
        if not ours or not rivals:
            continue
        ratio, fused_now = min(rivals) / ours[0], case.prediction().fused
        tie = 1 / _TIE < ratio < _TIE
        found.append(Verdict(case, ratio, fused_now, None if tie else fused_now == (ratio > 1)))
    return found


def edits(records: list[Record], gpu: str, date: str) -> list[str]:
    """What to write into `kernels/table.py`, line by line: new entries of MEASURED, and what contradicts the table."""
    judged = verdicts(records)
    lines = ["MEASURED = ("]
    for verdict in judged:
        chosen = "fused" if verdict.ratio > 1 else "composed"
        lines.append(f'    "{_entry(verdict.case)}: {chosen}, {verdict.ratio:.2f}x, {gpu}, {date}",')
    lines.append(")")
    wrong = [verdict for verdict in judged if verdict.holds is False]
    lines += [f"# contradicted: {_entry(v.case)} is {'fused' if v.fused_now else 'composed'} now" for v in wrong]
    gemms = [v for v in judged if v.case.op in table.GEMMS and v.case.op != table.BLOCK_END]
    lines += _break_even([v for v in gemms if v.case.stride == 1], wrong)
    lines += [
        f"# {v.case.op}: let use_fused compose it at {v.case.shape[4]} channels"
        for v in wrong
        if v.case.op in (*table.ELEMENTWISE, table.BLOCK_END)
    ]
    lines += [f"# {v.case.name}: let use_fused take stride 2 at these channels" for v in wrong if v.case.stride != 1]
    return lines + _tiles(rows_of(records))


def flop_per_byte(case: Case) -> float:
    """Of its convolution in 16 bits, as `use_fused` counts it: what the table decides by."""
    inputs, outputs = case.shape[4], case.outputs or case.shape[4]
    return case.taps * inputs * outputs / (inputs + outputs)


def _times(rows: list[Row], case: Case, arms: tuple[str, ...]) -> list[float]:
    return [r["us"]["p50"] for r in rows if r["op"] == case.name and r["arm"] in arms and not r["configuration"]]


def _entry(case: Case) -> str:
    channels, outputs = case.shape[4], case.outputs or case.shape[4]
    shape = f"{channels} -> {outputs}, {case.taps} taps, stride {case.stride}" if case.op in table.GEMMS else channels
    return f"{case.op} {shape} ({case.name})"


def _break_even(gemms: list[Verdict], wrong: list[Verdict]) -> list[str]:
    """The threshold between the GEMMs that won and those that lost, if the table's own does not separate them."""
    if not any(verdict in wrong for verdict in gemms):
        return []
    won = [flop_per_byte(v.case) for v in gemms if v.ratio > 1]
    lost = [flop_per_byte(v.case) for v in gemms if v.ratio < 1]
    if won and lost and max(won) > min(lost):
        return [
            f"# no threshold separates the GEMMs: won at up to {max(won):.0f} FLOP per byte, lost from "
            f"{min(lost):.0f}; list the shapes above in use_fused"
        ]
    if not lost:
        return [f"BREAK_EVEN_FLOP_PER_BYTE = {max(won):.0f}  # at least: every GEMM measured won"]
    low = max(won, default=0.0)
    return [
        f"BREAK_EVEN_FLOP_PER_BYTE = {(low + min(lost)) / 2:.0f}  # won at up to {low:.0f}, lost from {min(lost):.0f}"
    ]


def _tiles(rows: list[Row]) -> list[str]:
    """Configurations that were faster than the one in use."""
    ours = [row for row in rows if row.get("arm") == "ours" and row["direction"] == "both" and "us" in row]
    in_use = {row["op"]: row["us"]["p50"] for row in ours if not row["configuration"]}
    lines = []
    for case in CASES:
        others = [row for row in ours if row["op"] == case.name and row["configuration"]]
        if case.name not in in_use or not others:
            continue
        best = min(others, key=lambda row: row["us"]["p50"])
        gain = in_use[case.name] / best["us"]["p50"]
        if gain > _TIE:
            lines.append(
                f"# {case.name}: configuration {best['configuration']} is {gain:.2f}x faster: {_tile(case, best)}"
            )
    return lines


def _tile(case: Case, row: Row) -> str:
    rank, channels, outputs = row["configuration"], case.shape[4], case.outputs or case.shape[4]
    if case.op not in table.GEMMS:
        name = "pool_tiles" if case.op == "bn_relu_maxpool" else "row_tiles"
        candidates = getattr(table, name)(channels)
        return f"put {candidates[rank % len(candidates)]} first in {name}({channels})"
    _, t, h, w, _ = case.shape
    positions = t * ((h - 1) // case.stride + 1) * ((w - 1) // case.stride + 1)
    gemm, wgrad = table.gemm_tiles(channels, outputs, positions), table.wgrad_tiles(channels, outputs)
    return (
        f"put {gemm[rank % len(gemm)]} first in gemm_tiles({channels}, {outputs}, {positions}) or "
        f"{wgrad[rank % len(wgrad)]} in wgrad_tiles({channels}, {outputs}); time them apart"
    )
