"""Measured times against the dispatch table: what holds, what is contradicted, and the edit."""

import pytest

from fastplan.benchmarks.gpu_check import dispatch
from fastplan.benchmarks.kernel_cases import CASES
from fastplan.kernels import table  # noqa: TID251


def times(p50):
    return {"p20": p50, "p50": p50, "p80": p50, "n": 20}


def measured(ours, eager, compiled=None, *, others=()):
    """Records of one unit in which every case took the same times, but for the cases named in the dicts."""
    rows = []
    for case in CASES:
        for arm, spec in (("ours", ours), ("eager", eager), ("compile", compiled)):
            if spec is not None:
                us = times(spec.get(case.name, spec["*"]))
                rows.append({"op": case.name, "direction": "both", "arm": arm, "configuration": 0, "us": us})
    rows += [{"op": op, "direction": "both", "arm": "ours", "configuration": k, "us": times(t)} for op, k, t in others]
    return [{"unit": "all", "status": "done", "rows": rows}]


def test_the_rival_is_the_faster_of_eager_and_compile():
    found = {v.case.name: v for v in dispatch.verdicts(measured({"*": 10.0}, {"*": 20.0}, {"*": 12.0}))}
    assert {v.ratio for v in found.values()} == {1.2} and len(found) == len(CASES)
    assert found["tail, layer 1"].holds is True
    assert found["downsample, layer 2"].holds is False  # the table leaves stride 2 to cuDNN
    assert all(v.holds is None for v in dispatch.verdicts(measured({"*": 10.0}, {"*": 10.2})))


def test_nothing_is_judged_without_a_rival():
    assert dispatch.verdicts(measured({"*": 10.0}, None)) == []


def test_a_table_that_holds_asks_for_no_edit_but_the_entries():
    slow = {case.name: 30.0 for case in CASES if not case.prediction().fused}
    records = measured({"*": 10.0} | slow, {"*": 20.0})
    lines = dispatch.edits(records, "GPU", "2026-01-02")
    assert lines[0] == "MEASURED = (" and lines[-1] == ")" and len(lines) == len(CASES) + 2
    assert (
        '    "tap_gemm 64 -> 256, 1 taps, stride 1 (conv3 after BN, layer 1): fused, 2.00x, GPU, 2026-01-02",' in lines
    )
    namespace = {}
    exec("\n".join(lines), namespace)
    assert len(namespace["MEASURED"]) == len(CASES)


def test_a_break_even_that_is_too_high_is_moved():
    """Layer 2 of conv1 and conv3 has 102 FLOP per byte, which the table gives to us; P3D-C's layer 1 has 96."""
    by_name = {case.name: case for case in CASES}
    assert dispatch.flop_per_byte(by_name["conv3 after BN, layer 2"]) == pytest.approx(128 * 512 / 640)
    assert dispatch.flop_per_byte(by_name["P3D-C t, layer 1"]) == 96
    lost = {case.name: 30.0 for case in CASES if case.op in table.GEMMS and dispatch.flop_per_byte(case) > 100}
    lines = dispatch.edits(measured({"*": 10.0} | lost, {"*": 20.0}), "GPU", "2026-01-02")
    (edit,) = [line for line in lines if line.startswith("BREAK_EVEN")]
    assert 96 < float(edit.split("=")[1].split("#")[0]) < 102.4
    assert any(line.startswith("# contradicted: tap_gemm 128 -> 512, 1 taps") for line in lines)


def test_a_block_end_that_loses_is_named_and_moves_no_other_threshold():
    """It has products of up to 410 FLOP per byte, which the GEMMs' threshold says nothing about."""
    lines = dispatch.edits(measured({"*": 10.0, "block end, layer 4": 30.0}, {"*": 20.0}), "GPU", "2026-01-02")
    assert "# conv_gc_add_relu: let use_fused compose it at 512 channels" in lines
    assert not any("512" in line for line in lines if line.startswith("BREAK_EVEN"))


def test_wins_above_losses_are_listed_not_separated():
    lines = dispatch.edits(measured({"*": 10.0, "conv3 after BN, layer 1": 30.0}, {"*": 20.0}), "GPU", "2026-01-02")
    assert any("no threshold separates" in line for line in lines)


def test_a_faster_tile_is_named():
    records = measured({"*": 10.0}, {"*": 20.0}, others=[("tail, layer 1", 1, 8.0), ("tail, layer 2", 1, 9.9)])
    tiles = [line for line in dispatch.edits(records, "GPU", "2026-01-02") if "configuration" in line]
    assert len(tiles) == 1 and "1.25x faster" in tiles[0]
    assert f"put {table.row_tiles(256)[1]} first in row_tiles(256)" in tiles[0]
