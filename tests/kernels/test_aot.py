"""Every configuration compiles to code worth running on GPUs that are not here; Triton caches it.

With the pinned Triton, and, each variant and each tile once, with the oldest one that setup.py allows, which `make
test` puts beside it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastplan.benchmarks import aot
from fastplan.kernels import launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(launch.INTERPRET, reason="the interpreter replaces the kernels that are to be compiled"),
]


@pytest.fixture(scope="module")
def compiled():
    return list(aot.compile_plan())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", [90, *aot.OTHER_ARCHITECTURES])
def test_configurations_pass_the_gates(compiled, arch):
    rows = [row for row in compiled if row.arch == arch]
    assert len(rows) == len(aot.plan((arch,)))
    failed = [f"{row.kernel} {row.label}: {', '.join(row.failures)}" for row in rows if row.failures]
    assert not failed, f"sm_{arch}:\n" + "\n".join(failed)


@pytest.mark.timeout(1200)
def test_configurations_pass_the_gates_with_the_oldest_triton(tmp_path):
    found = sorted(Path(sys.prefix).glob("triton-*"))
    if not found:
        pytest.skip("only the pinned Triton is installed: `make test` puts the oldest one beside it")
    table = tmp_path / "aot.md"
    run = subprocess.run(
        [sys.executable, "-m", "fastplan.benchmarks.aot", "--arch", "90", "--brief", "--output", str(table)],
        env={**os.environ, "PYTHONPATH": str(found[0])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"with Triton {found[0].name.removeprefix('triton-')};" in table.read_text()
    passed = [line for line in table.read_text().splitlines() if line.endswith("| pass |")]
    assert len(passed) == len(aot.plan((90,), brief=True))


def test_the_brief_plan_has_every_variant_and_every_tile():
    """Of each kernel and dtype: only pairs of the two are left out."""

    def parts(cases):
        tiles = [{k: v for k, v in case.constants.items() if k in aot.TILE} for case in cases]
        variants = [{k: v for k, v in case.constants.items() if k not in aot.TILE} for case in cases]
        return [
            {(case.kernel, case.fp32, tuple(part.items())) for case, part in zip(cases, found, strict=True)}
            for found in (tiles, variants)
        ]

    brief = [case for case, _ in aot.plan((90,), brief=True)]
    assert parts(brief) == parts(aot.cases())
    assert len(brief) < len(aot.cases()) / 2 and all(case in aot.cases() for case in brief)


def test_a_spilling_configuration_fails_a_gate():
    """The gates see what they are for: 256x128 outputs do not fit the registers of 4 warps."""
    case = next(c for c in aot.gemm_cases() if c.warps == 8 and c.constants.get("PROLOGUE"))
    (row,) = aot.compile_cases([(case._replace(warps=4, constants={**case.constants, "BM": 256}), 90)])
    assert row.failures
    assert row.stack_bytes or row.spills


def test_kernels_compile_where_a_size_is_one():
    """A feature map of one position, one frame or one sample: what was an integer is a constant then."""
    first = {case.kernel: case for case in reversed(aot.cases())}
    ones = [(aot.with_sizes_of_one(case)._replace(streams=False), 90) for case in first.values()]
    for row in aot.compile_cases(ones):
        assert row.registers and not row.stack_bytes, row


def test_every_kernel_is_compiled():
    from fastplan.kernels import bn_finalize, bn_gc_add_relu, bn_grad, bn_relu, bn_relu_maxpool, tap_gemm, tap_wgrad

    entry_points = {
        name
        for module in (bn_finalize, bn_gc_add_relu, bn_grad, bn_relu, bn_relu_maxpool, tap_gemm, tap_wgrad)
        for name, value in vars(module).items()
        if type(value).__name__ == "JITFunction" and name.startswith("_") and name != "_gather"
    }
    assert {case.kernel.__name__ for case in aot.cases()} == entry_points
    for arch in (90, *aot.OTHER_ARCHITECTURES):
        assert {case.kernel.__name__ for case, _ in aot.plan((arch,))} == entry_points
