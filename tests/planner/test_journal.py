"""The journal gives back what was committed, and says what is wrong with a damaged file."""

import math
import sqlite3

import pytest

from fastplan.errors import UserError
from fastplan.planner.arrivals import Outcome
from fastplan.planner.curve import fit_knee
from fastplan.planner.journal import EpochRecord, Journal

OUTCOME = Outcome(
    "start", "a", "knee", 3, 5, 0.875, 0.01, 480, 1.5, "checkpoints/x.pt", "note", curve=(0.1, 0.5, 0.875)
)


def test_what_is_committed_comes_back_after_reopening(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    records = [EpochRecord(0, 0.1, math.nan, 0, 0.0, 0.0), EpochRecord(1, 1 / 3, 2.5, 480, 1.25, 0.25)]
    fit = fit_knee([0.1, 0.3, 0.5, 0.55, 0.56, 0.56])
    for record in records:
        journal.record_epoch("start>a", record)
    journal.record_epoch("start>a>b", records[1])
    journal.record_fit("start>a", 1, fit)
    journal.record_edge("start>a", OUTCOME)
    journal.close()
    again = Journal(tmp_path / "j.sqlite")
    found = again.epochs("start>a")
    assert math.isnan(found[0].loss) and found[1] == records[1] and len(found) == 2
    assert again.fits("start>a") == {1: fit}
    assert again.outcome("start>a") == OUTCOME
    assert again.outcome("start>a>b") is None
    assert again.edges() == ["start>a", "start>a>b"]


def test_an_epoch_that_is_not_a_number_survives(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.record_epoch("start>a", EpochRecord(1, math.nan, math.nan, 480, 1.0, 0.1))
    assert math.isnan(journal.epochs("start>a")[0].accuracy)


def test_a_damaged_journal_is_one_clear_line(tmp_path):
    file = tmp_path / "j.sqlite"
    file.write_bytes(b"this is no database, but long enough to be read as one" * 40)
    with pytest.raises(UserError, match=r"the journal .*j\.sqlite is damaged"):
        Journal(file)


def test_a_journal_that_cannot_be_written_says_so_and_keeps_what_it_has(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.record_edge("start>a", OUTCOME)
    lock = sqlite3.connect(tmp_path / "j.sqlite", isolation_level=None)
    lock.execute("begin exclusive")
    journal._db.execute("pragma busy_timeout = 50")
    with pytest.raises(UserError, match="cannot use the journal"):
        journal.record_epoch("start>a>b", EpochRecord(1, 0.5, 0.5, 1, 1.0, 0.0))
    lock.execute("rollback")
    assert journal.outcome("start>a") == OUTCOME
