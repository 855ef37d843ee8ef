"""Every configuration compiles to code worth running on GPUs that are not here; Triton caches it."""

import pytest

from fastplan.benchmarks import aot
from fastplan.kernels import launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(launch.INTERPRET, reason="the interpreter replaces the kernels that are to be compiled"),
]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", [90, *aot.OTHER_ARCHITECTURES])
def test_configurations_pass_the_gates(arch):
    rows = [aot.compile_case(case, at) for case, at in aot.plan((arch,))]
    assert rows
    failed = [f"{row.kernel} {row.label}: {', '.join(row.failures)}" for row in rows if row.failures]
    assert not failed, f"sm_{arch}:\n" + "\n".join(failed)


def test_a_spilling_configuration_fails_a_gate():
    """The gates see what they are for: 256x128 outputs do not fit the registers of 4 warps."""
    case = next(c for c in aot.gemm_cases() if c.warps == 8 and c.constants.get("PROLOGUE"))
    row = aot.compile_case(case._replace(warps=4, constants={**case.constants, "BM": 256}), 90)
    assert row.failures
    assert row.stack_bytes or row.spills


def test_every_kernel_is_compiled():
    from fastplan.kernels import bn_finalize, bn_gc_add_relu, bn_relu, bn_relu_maxpool, tap_gemm, tap_wgrad

    entry_points = {
        name
        for module in (bn_finalize, bn_gc_add_relu, bn_relu, bn_relu_maxpool, tap_gemm, tap_wgrad)
        for name, value in vars(module).items()
        if type(value).__name__ == "JITFunction" and name.startswith("_") and name != "_gather"
    }
    assert {case.kernel.__name__ for case in aot.cases()} == entry_points
    for arch in (90, *aot.OTHER_ARCHITECTURES):
        assert {case.kernel.__name__ for case, _ in aot.plan((arch,))} == entry_points
