"""bench_index on a handful of files: its own check that every command found every file and frame."""

import subprocess
import sys


def test_every_command_is_measured():
    words = [sys.executable, "-m", "fastplan.benchmarks.bench_index", "--files", "12"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["12", name] for name in ("scan", "nothing new", "--json", "--fix-list", "--index")
    ]
    assert all(20 < int(row[2]) < 1000 and float(row[3]) > 0 for row in rows)
