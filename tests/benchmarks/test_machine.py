"""What nvidia-smi says, older drivers included, read from a program of that name; and a machine without one."""

import pytest

from fastplan.benchmarks.gpu_check import machine

PROGRAM = """#!/bin/sh
case "$1" in
  *{unknown}*) echo "Field is not a valid field to query."; exit 2;;
  *reasons*) echo 0x0000000000000001;;
  *driver_version*) echo 580.159.04;;
  *) echo "P0, 1980 MHz, 2619 MHz, 1981 MHz, 2620 MHz, 120.10 W, 700.00 W, 40";;
esac
"""


@pytest.mark.parametrize("unknown", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_clocks_and_power(unknown, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(PROGRAM.replace("{unknown}", unknown))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    state = machine.state()
    assert (state["pstate"], state["clocks.sm"], state["clocks.max.mem"]) == ("P0", "1980 MHz", "2620 MHz")
    assert (state["power.draw"], state["throttled by"]) == ("120.10 W", "0x0000000000000001")
    assert machine.facts("gpu-check --tiny")["driver"] == "580.159.04"


def test_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.state() == {} and machine.facts("gpu-check")["driver"] == "unknown"
