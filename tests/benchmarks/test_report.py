"""From records to the last lines and the exit status."""

import pytest

from fastplan.benchmarks.gpu_check import report, tables
from fastplan.benchmarks.gpu_check.report import Check


def arm(network, execution, ms, *, graph=False, shape="16x16", **more):
    us = {"p20": 990 * ms, "p50": 1000 * ms, "p80": 1010 * ms, "n": 10}
    row = {"shape": shape, "network": network, "execution": execution, "deterministic": False, "graph": graph, "us": us}
    row |= {"errors": {"loss": 1e-3}, "correct": True, "repeats": True, "peak_bytes": 5e9, "first_s": 1.0}
    return {**row, "clips_per_s": 16e3 / ms, **more}


def check(*rows, **stages):
    records = [{"unit": str(i), "status": "done", "rows": [row]} for i, row in enumerate(rows)]
    facts = {"gpu": "Some GPU", "torch": "2", "triton": "3"}
    return Check(facts, "2026-01-02", False, {"begin": {"pstate": "P0"}}, {"steps": records, **stages})


def test_gains_are_over_eager_conv3d_and_over_the_best_compiler_without_kernels():
    """Ours is at best 10 ms. Ours compiled is no rival, nor is an eager graph; the best compiler takes 12 ms."""
    arms = [
        arm("plain", "eager", 18),
        arm("plain", "eager", 17, graph=True),
        arm("views", "compile", 13),
        arm("views", "max-autotune", 12, graph=True),
        arm("ours", "eager", 11),
        arm("ours", "compile", 10, graph=True),
        arm("ours", "max-autotune", 1, us=None, clips_per_s=None, correct=False),
        arm("plain", "eager", 3, shape="4x16"),
    ]
    lines = report.summary(check(*arms)).splitlines()
    assert "    16x16: plain 17.0 ms (eager, CUDA graph); views 12.0 ms (max-autotune, CUDA graph); ours 10.0 ms "\
        "(compile, CUDA graph)" in lines  # fmt: skip
    assert "      ours over: 1.80x eager Conv3d, 1.20x the best torch.compile" in lines
    assert lines[-2] == "      ours: not measured" and lines[-1].startswith("  WRONG 16x16, ours, max-autotune")


def test_the_table_has_the_fastest_first_and_the_ratio_to_eager_conv3d():
    found = tables.steps(check(arm("plain", "eager", 18), arm("ours", "eager", 12)).stages["steps"])
    body = [line for line in found.splitlines() if line.startswith("| 16x16")]
    assert body[0].startswith("| 16x16 | ours | eager | 12 (11.9 to 12.1) | 10 | 1333 | 1.5 | 5 | loss 1.0e-03 | yes")
    assert len(body) == 2


@pytest.mark.parametrize(
    ("stages", "passed", "line"),
    [
        ({}, True, None),
        ({"ops": [{"unit": "x", "status": "skipped", "reason": "no time"}]}, True, "  ops        1 skipped"),
        ({"ops": [{"unit": "x", "status": "failed", "reason": "OutOfMemoryError: CUDA"}]}, False,
         "  FAILED x: OutOfMemoryError: CUDA"),
        ({"correct": [{"unit": "x", "status": "done", "rows": [
            {"op": "tail", "dtype": "bf16", "configuration": 1, "error": 0.5, "tolerance": 4e-3, "repeats": True,
             "correct": False}]}]}, False, "  WRONG tail, error 0.5"),
    ],
)  # fmt: skip
def test_what_passes(stages, passed, line, tmp_path):
    made = check(arm("plain", "eager", 18), **stages)
    assert report.passed(made) is passed
    assert line is None or line in report.summary(made).splitlines()
    report.write(made, tmp_path)
    assert "no time" in (tmp_path / "results.md").read_text() or "skipped" not in str(stages)


def test_results_of_another_machine_are_not_mixed(tmp_path):
    made = check(arm("plain", "eager", 18))
    assert report.other_machine(tmp_path, made.facts) == ""
    report.write(made, tmp_path)
    assert report.other_machine(tmp_path, made.facts) == ""
    assert report.other_machine(tmp_path, made.facts | {"gpu": "Another"}) == "gpu Some GPU"
