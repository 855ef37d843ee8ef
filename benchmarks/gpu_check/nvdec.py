"""Stage `nvdec`: DALI's own video decoder, NVDEC on a GPU, on whole files and on cuts.

What is asked: frames per second against the decoder's limit, whether it seeks in a file or decodes from the beginning,
what cutting the groups of pictures out brings, whether cuts give the same pixels, and whether they still do without the
packets that no other picture refers to. Without a GPU the same code runs on VP9, which DALI decodes on the CPU.
"""

from fastplan.benchmarks.gpu_check.units import Unit


def units(tiny: bool) -> list[Unit]:
    """Needs DALI and PyAV; where one is missing every unit is skipped and says so."""
    missing = ""
    try:
        from fastplan.benchmarks.gpu_check import decoding
    except ImportError as error:
        missing = f"{error}; docs/benchmarks.md says how to bring DALI and PyAV along"
    units = [Unit("does it seek", "seek", 8.0, lambda: decoding.seeking(tiny), missing)]
    for gop in (6, 24) if tiny else (12, 250):
        for regime in ("consecutive", "4 segments of 4", "16 single"):
            run = lambda gop=gop, regime=regime: decoding.measure(gop, regime, tiny)  # noqa: E731
            units.append(Unit(f"{regime}, keyframe every {gop}", "clips", 8.0, run, missing))
    return units
