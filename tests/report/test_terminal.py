"""What is printed: paths as they are, commands that can be copied."""

import io

import pytest
from rich.console import Console

from fastplan.configs import find
from fastplan.data.lost import LostClip
from fastplan.planner.arrivals import Outcome
from fastplan.planner.graph_files import load_graph
from fastplan.report.console import print_table
from fastplan.report.plans import states_table
from fastplan.report.terminal import Terminal, search_table


def test_brackets_in_paths_are_no_markup_and_commands_stay_on_one_line():
    out = io.StringIO()
    terminal = Terminal(Console(file=out, width=40))
    path = "/data/[/b] clips [red]/" + 20 * "long/" + "a.mp4"
    terminal.facts([("run", "runs/[/b]")])
    terminal.note(f"fastplan train --plan {path}")
    terminal.lost(LostClip(path, "a [/broken] file", "val", 0, 0, None))
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["run", "runs/[/b]"]
    assert lines[1] == f"fastplan train --plan {path}"
    assert lines[2] == f"  cannot read {path}: a [/broken] file; left out"


@pytest.mark.parametrize("width", [120, 80, 45])
def test_a_narrow_terminal_loses_no_figure(width):
    out = io.StringIO()
    console = Console(file=out, width=width)
    outcome = Outcome("u16-high", "u16-low", "cap", 20, 30, 0.9875, 0.0125, 1234567, 8765.0, None, "")
    print_table(console, search_table([outcome], None))
    print_table(console, states_table(load_graph(find("state_graphs", "default"))))
    text = out.getvalue()
    for word in ("u16-high -> u16-low", "98.8", "1.2", "20", "30", "converged", "1,234,567", "8765", "0.005", "40 px"):
        assert word in text, (word, text)
    assert "…" not in text
    assert width < 80 or max(map(len, text.splitlines())) <= width
