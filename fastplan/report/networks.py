"""The table of networks, for a person or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from fastplan.models.cost import Cost


def costs_table(costs: Sequence[Cost], frames: Sequence[int], size: int) -> Table:
    """A row per network; multiply-adds in thousands of millions, `-` for a clip that the network does not take."""
    table = Table(
        title=f"Networks with 400 classes; G multiply-adds of a clip of N x {size} x {size} pixels (papers: GFLOPs)",
        title_justify="left",
    )
    lengths = [f"{length} frames" for length in frames]
    for column in ("network", "parameters", "heads", "least frames", "multiple of", *lengths):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=column == "network")
    for cost in costs:
        macs = [f"{cost.macs[length] / 1e9:.2f}" if length in cost.macs else "-" for length in frames]
        table.add_row(cost.network, f"{cost.parameters:,}", str(cost.heads), str(cost.least), str(cost.multiple), *macs)
    return table


def costs_json(costs: Sequence[Cost], size: int) -> str:
    """The same as one JSON object; multiply-adds in full, by clip length."""
    return json.dumps({"size": size, "classes": 400, "networks": [asdict(cost) for cost in costs]}, indent=2)
