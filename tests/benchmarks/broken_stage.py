"""A stage whose units fail in every way; a file counts how often each was begun."""

import ctypes
import os
import time
from pathlib import Path

from fastplan.benchmarks.gpu_check.units import Unit


def units(tiny: bool) -> list[Unit]:
    counts = Path(os.environ["BROKEN_STAGE_COUNTS"])

    def counted(name, work):
        def run():
            with counts.open("a") as file:
                file.write(name + "\n")
            return work()

        return Unit(name, name, 0.1, run)

    def one_row_then(work):
        yield {"value": 5}
        work()

    return [
        counted("fine", lambda: [{"value": 1}]),
        counted("raises", lambda: one_row_then(lambda: 1 / 0)),
        counted("leaves", lambda: one_row_then(lambda: os._exit(7))),
        counted("crashes", lambda: ctypes.string_at(0)),
        counted("fine again", lambda: [{"value": 2}]),
        Unit("long", "long", 1e6, lambda: [{"value": 3}]),
        counted("hangs", lambda: time.sleep(600)),
        counted("after it", lambda: [{"value": 4}]),
    ]
