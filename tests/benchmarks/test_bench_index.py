"""Memory of `fastplan check`, and its benchmark on a handful of files."""

import subprocess
import sys
from dataclasses import replace

from fastplan.benchmarks.bench_index import make_links
from fastplan.data.lists import read_videos
from fastplan.data.probe import probe_place
from fastplan.data.store import IndexStore
from fastplan.data.store_files import as_batch

# Bytes that are asked for, not pages that are held: the same in every run, whatever else the machine does.
_BYTES_AT_ONCE = """
import sys, tracemalloc
import pyarrow
import fastplan.check, fastplan.data.export, fastplan.data.splits, fastplan.report.checks, fastplan.report.console
from fastplan.cli import main
tracemalloc.start()
status = main(sys.argv[1:])
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
    assert all(20 < int(row[2]) < 1000 and float(row[3]) > 0 for row in rows)
    assert done.stdout.splitlines()[-1].startswith("Peak RSS grows by at most ")


def test_nine_thousand_more_files_cost_little_memory(tmp_path):
    """Names and facts alone, 0.3 KB and 3 times the path when this was written: no tables, no findings."""
    peaks = []
    for files in (1000, 10_000):
        make_links(tmp_path / str(files), files)
        places = [place.absolute() for place in read_videos(tmp_path / str(files)).places]
        probed = probe_place(places[0])
        with IndexStore(tmp_path / "cache" / "index").writer() as writer:
            for place in places:
                writer.add(as_batch(replace(probed, path=place.path, stamp=place.stamp())))
        words = ["check", str(tmp_path / str(files)), f"data.cache={tmp_path / 'cache'}"]
        done = subprocess.run([sys.executable, "-c", _BYTES_AT_ONCE, *words], capture_output=True, text=True)
        assert f"{files} files, {16 * files:,} frames; all of them decode" in done.stdout, done.stderr
        peaks.append(int(done.stderr.split("peak ")[1]))
    assert (peaks[1] - peaks[0]) / 9000 < 200 + 6 * len(probed.path), peaks
