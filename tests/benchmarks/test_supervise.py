"""Real processes that raise, leave, crash and hang, each under a stage that goes on."""

import json
import os
from pathlib import Path

import pytest

from fastplan.benchmarks.gpu_check import supervise
from fastplan.benchmarks.gpu_check.supervise import Stage, run_stage
from fastplan.benchmarks.gpu_check.units import Journal

HERE = Path(__file__).parent


def run(folder, counts, *, seconds, module="broken_stage", shards=1):
    seen = []
    environment = dict(os.environ) | {"PYTHONPATH": str(HERE), "BROKEN_STAGE_COUNTS": str(counts)}
    stage = Stage("broken", module, 1, shards)
    records = run_stage(
        "broken", stage, folder, seconds=seconds, tiny=True, environment=environment, on_unit=seen.append
    )
    return {record["unit"]: record for record in records}, seen


@pytest.mark.slow
def test_a_stage_survives_its_units_and_goes_on_later(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "_GRACE_S", 1.0)
    counts = tmp_path / "counts"
    found, seen = run(tmp_path, counts, seconds=8)
    assert list(found) == ["fine", "raises", "leaves", "crashes", "fine again", "long", "hangs", "after it"]
    assert {name: record["status"] for name, record in found.items()} == {
        "fine": "done",
        "raises": "failed",
        "leaves": "failed",
        "crashes": "failed",
        "fine again": "done",
        "long": "skipped",
        "hangs": "skipped",
        "after it": "skipped",
    }
    assert found["fine"]["rows"] == [{"value": 1}]
    assert found["raises"]["rows"] == found["leaves"]["rows"] == [{"value": 5}]
    assert found["raises"]["reason"] == "ZeroDivisionError: division by zero"
    assert found["crashes"]["reason"] == "killed by signal SIGSEGV"
    assert "takes about 1000000 s" in found["long"]["reason"]
    assert found["hangs"]["reason"] == "stopped at the end of the stage's time"
    assert [record["unit"] for record in seen] == list(found)[:-1]
    assert "ZeroDivisionError" in (tmp_path / "broken-0.log").read_text()

    again, _ = run(tmp_path, counts, seconds=2)
    begun = counts.read_text().split("\n")[:-1]
    assert [begun.count(name) for name in ("fine", "raises", "leaves", "crashes", "fine again")] == [1] * 5
    assert begun.count("hangs") == 2 and again["fine"]["rows"] == [{"value": 1}]


def test_a_stage_that_cannot_start_says_why(tmp_path):
    found, _ = run(tmp_path, tmp_path / "counts", seconds=60, module="no_such_module")
    assert found["the process itself"]["status"] == "failed"
    assert "No module named 'no_such_module'" in found["the process itself"]["reason"]


def test_a_journal_survives_a_cut_line(tmp_path):
    journal = Journal(tmp_path / "a-0.jsonl")
    journal.write(unit="x", status="begun")
    with journal.path.open("a") as file:
        file.write(json.dumps({"unit": "x", "status": "done"})[:-5])
    assert journal.latest() == {"x": {"unit": "x", "status": "begun"}}
