"""The table of networks, for a person or as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from fastplan.models.choices import Choice
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


def kernels_table(network: str, choices: Mapping[Choice, int], ends: tuple[int, int]) -> Table:
    """A row per shape of convolution: what computes it on a GPU, and why. ends: `choices.ends_in_gemm`."""
    ours = sum(count for choice, count in choices.items() if choice.gemm)
    table = Table(
        title=f"{network} in 16 bits on a GPU: {ours} GEMMs of ours, {sum(choices.values()) - ours} conv2d of cuDNN",
        title_justify="left",
        caption=f"With fixed statistics (evaluation, freeze_bn) {ends[0]} of {ends[1]} blocks end in one GEMM of ours.",
        caption_justify="left",
    )
    for column in ("convolution", "channels", "stride", "how many", "runs as", "why"):
        table.add_column(column, justify="right" if column in ("stride", "how many") else "left")
    for choice, count in choices.items():
        channels = f"{choice.inputs} -> {choice.outputs}"
        runs = "GEMM" if choice.gemm else "conv2d"
        table.add_row(choice.kernel, channels, str(choice.stride), str(count), runs, choice.why)
    return table


def costs_json(costs: Sequence[Cost], size: int) -> str:
    """The same as one JSON object; multiply-adds in full, by clip length."""
    return json.dumps({"size": size, "classes": 400, "networks": [asdict(cost) for cost in costs]}, indent=2)
