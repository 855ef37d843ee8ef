"""Memory of `fastplan check`, and its benchmark on a handful of files."""

import json
import subprocess
import sys
from pathlib import Path

from fastplan.benchmarks.bench_index import make_links

# Bytes that are asked for, not pages that are held: the same in every run, whatever else the machine does. Decoding is
# left out: each file is what the first one was found to be.
_BYTES_AT_ONCE = """
import sys, tracemalloc
from dataclasses import replace
import pyarrow
import fastplan.check, fastplan.data.export, fastplan.data.splits, fastplan.report.checks, fastplan.report.console
from fastplan.cli import main
from fastplan.data import index, store_files
from fastplan.data.probe import probe_place
from fastplan.data.storage import Place
from fastplan.data.store_files import as_batch

found = probe_place(Place(sys.argv[1]))
index.probe_all = lambda places, **_: (as_batch(replace(found, path=p.path, stamp=p.stamp())) for p in places)
store_files._FILE_S = 1e9  # as many rows to a file however slow the machine
tracemalloc.start()
status = main(sys.argv[2:])
arrow = pyarrow.default_memory_pool()
assert arrow.backend_name == "system"
print("peak", tracemalloc.get_traced_memory()[1] + arrow.max_memory(), file=sys.stderr)
sys.exit(status)
"""


def test_every_command_is_measured():
    """The benchmark itself makes sure that every command found every file and frame."""
    words = [sys.executable, "-m", "fastplan.benchmarks.bench_index", "--files", "12", "24"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[4:14]]
    titles = ("scan", "nothing new", "--json", "--fix-list", "--index")
    assert [row[:2] for row in rows] == [[files, name] for files in ("12", "24") for name in titles]
    assert all(20 < float(row[2].split(" ")[0]) < 1000 and float(row[3].split(" ")[0]) > 0 for row in rows)
    assert done.stdout.splitlines()[-1].startswith("Peak RSS grows by at most ")


def test_more_files_cost_next_to_no_memory(tmp_path):
    """Of each some numbers and what is left of its packed name: 44 to 65 bytes when this was written, once 350."""
    peaks = {files: peaks_of(tmp_path / str(files), files) for files in (1000, 3000)}
    growth = {title: (peak - peaks[1000][title]) / 2000 for title, peak in peaks[3000].items()}
    assert all(bytes_a_file < 100 for bytes_a_file in growth.values()), growth


def peaks_of(folder: Path, files: int) -> dict[str, int]:
    """Most bytes at once, by what was checked and how."""
    data = folder / "data"
    make_links(data, files)
    names = [str(path.relative_to(folder)) for path in sorted(data.rglob("*.mp4"))]
    (folder / "list.txt").write_text("".join(f"{name} {number % 2}\n" for number, name in enumerate(names)))
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{name},class{name[10]}\n" for name in names))
    peaks = {}
    for title, *words in (
        ("scan", data),
        ("nothing new", data),
        ("--json", data, "--json"),
        ("--fix-list", data, "--fix-list", folder / "fixed.csv"),
        ("--index", data, "--index", folder / "set.parquet"),
        ("list", folder / "list.txt"),
        ("table", folder / "list.csv"),
    ):
        words = [folder / names[0], "check", *words, f"data.cache={folder / 'cache'}"]
        done = subprocess.run([sys.executable, "-c", _BYTES_AT_ONCE, *map(str, words)], capture_output=True, text=True)
        told = f"{files} files, {16 * files:,} frames; all of them decode"
        seen = len(json.loads(done.stdout)["videos"]) == files if title == "--json" else told in done.stdout
        assert seen and not done.returncode, done.stderr
        peaks[title] = int(done.stderr.split("peak ")[1])
    return peaks
