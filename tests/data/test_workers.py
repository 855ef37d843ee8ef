"""Threads for work that may hang: what is given up, and what is not."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fastplan.data.workers import Workers

_WORKS_ON = """
import threading, time
from fastplan.data.workers import Workers

def work():
    for number in range(10):
        print(number, flush=True)
        time.sleep(0.1)

workers = Workers(1, limit_s=3.0)
workers.submit(work).result(threading.Event())
print("done")
"""


def test_a_process_that_stood_still_gives_nothing_up():
    """As after control-Z, or in a batch system that lets another job go first."""
    with subprocess.Popen([sys.executable, "-c", _WORKS_ON], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "3\n":
                break
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4.0)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.read().endswith("done\n")
    assert process.returncode == 0


_PROBES = """
import sys, time
from fastplan.data.probing import probe_all
from fastplan.data.storage import Place

begun_s = time.monotonic()
for row in probe_all([Place(sys.argv[1])] * 2, files=2, workers=1, limit_s=3.0):
    print(row.to_pylist()[0]["bad"], time.monotonic() - begun_s, flush=True)
    begun_s = time.monotonic()
"""


def test_probing_does_not_count_the_time_in_which_it_stood_still(tmp_path):
    os.mkfifo(pipe := tmp_path / "v.mp4")
    with subprocess.Popen([sys.executable, "-c", _PROBES, str(pipe)], stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        time.sleep(2.0)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.kill(process.pid, signal.SIGCONT)
        second = process.stdout.readline()
    for line, least_s in ((first, 3.0), (second, 8.0)):
        why, waited_s = line.rsplit(maxsplit=1)
        assert why == "takes more than 3 s to decode" and float(waited_s) >= least_s


def test_what_hangs_is_given_up_and_its_place_taken():
    workers, free = Workers(1, limit_s=0.5), threading.Event()
    hung, next_one = workers.submit(free.wait), workers.submit(lambda: 7)
    begun_s = time.monotonic()
    with pytest.raises(TimeoutError, match=r"took more than 0\.5 s"):
        hung.result(threading.Event())
    assert time.monotonic() - begun_s >= 0.5
    assert next_one.result(threading.Event()) == 7
    free.set()
    workers.close()
