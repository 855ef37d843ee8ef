"""Parameters and multiply-adds of the networks against what was published, each counted as its source counts.

    python -m fastplan.benchmarks.published            # print the table as Markdown
    python -m fastplan.benchmarks.published --write    # and put it into docs/networks.md

Nothing is computed: the networks run on torch's meta device. Needs a checkout for --write only.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastplan.models.networks import build_network

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
MARKS = ("<!-- python -m fastplan.benchmarks.published --write -->\n", "<!-- end -->\n")

Convention = Literal["plain", "norms", "layers"]

AUTHORS = "counted on the DG-P3D authors' code"
ZOO = "PyTorchVideo model zoo"
MMACTION = "MMAction2 metafile"


@dataclass(frozen=True)
class Published:
    """One published line. parameters: exact, or in millions as printed; gmacs: as printed. None where there is none.

    frames, size, classes: what the figures are for. convention: how the source counts multiply-adds. why: the
    explanation of a figure that is not matched, empty where all are.
    """

    network: str
    source: str
    frames: int
    size: int
    parameters: int | str | None
    gmacs: str | None = None
    classes: int = 400
    convention: Convention = "plain"
    why: str = ""


PUBLISHED = (
    Published("dg_p3d_50", AUTHORS, 16, 224, 50_382_288),
    Published("dg_p3d_101", AUTHORS, 16, 224, 74_963_472),
    Published("dg_p3d_103", AUTHORS, 16, 224, 75_064_208),
    Published("dg_p3d_152", AUTHORS, 16, 224, 95_210_960),
    Published("dg_p3d_resnext50_32x4d", AUTHORS, 16, 224, 44_069_072),
    Published("dg_p3d_resnext101_32x8d", AUTHORS, 16, 224, 128_249_616),
    Published("dg_p3d_wide50_2", AUTHORS, 16, 224, 139_110_608),
    Published("dg_p3d_wide101_2", AUTHORS, 16, 224, 212_730_128),
    Published("p3d_50", AUTHORS, 16, 224, 28_128_272),
    Published("lgd_p3d_50", AUTHORS, 16, 224, 36_190_640),
    Published("r2p1d_50", AUTHORS, 16, 224, 46_990_352),
    Published("i3d_50", AUTHORS, 16, 224, 46_990_352),
    Published("r2plus1d_18", "torchvision r2plus1d_18", 16, 112, 31_505_325, "40.52"),
    Published("c3d", MMACTION, 16, 112, 78_409_573, "38.62", classes=101, convention="layers"),
    Published("s3d", "torchvision s3d", 16, 224, 8_320_048, "17.98"),
    Published(
        "s3dg",
        "Xie et al., ECCV 2018",
        64,
        224,
        "11.56",
        "71.38",
        why="without gates ours is torchvision's S3D to the parameter; one gate behind every temporal convolution, as "
        "we read the paper, adds 0.8 M parameters, its count needs 3.2 M",
    ),
    Published("i3d_r50_8x8", ZOO, 8, 256, "28.04", "37.53", convention="norms"),
    Published("i3d_r50_32x2", MMACTION, 32, 256, 28_043_472, "43.56", convention="layers"),
    Published(
        "i3d_nln_r50_32x2",
        MMACTION,
        32,
        256,
        35_397_840,
        "54.33",
        convention="layers",
        why="MMAction2 projects keys and values before the pool, on four times the positions: 4.03 G; the paper and "
        "PySlowFast, as ours, behind it",
    ),
    Published("slow_r50", ZOO + ", 8x8", 8, 256, "32.45", "54.52"),
    Published("slow_r50", ZOO + ", 4x16", 4, 256, "32.45", "27.55", convention="norms"),
    Published("slowfast_r50_4x16", ZOO, 32, 256, "34.48", "36.69", convention="norms"),
    Published("slowfast_r50_4x16", "Feichtenhofer et al., ICCV 2019", 32, 256, None, "36.1"),
    Published("slowfast_r50_8x8", ZOO, 32, 256, "34.57", "65.71"),
    Published("slowfast_r101_8x8", ZOO, 32, 256, "62.83", "127.20", convention="norms"),
)

_HOW = {"plain": "", "norms": "+ 5 a BatchNorm element", "layers": "every layer"}


class _Elements(TorchDispatchMode):
    """What MMCV's counter adds for every layer: elements of BatchNorm (twice), ReLU, pools and biases; and products."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if "batch_norm" in name:
            self.of["norm"] += args[0].numel()
        elif name in ("relu", "relu_"):
            self.of["relu"] += out.numel()
        elif "max_pool" in name or (name == "mean" and args[0].ndim == 5):
            self.of["pool"] += args[0].numel()
        elif name == "addmm" or (name == "convolution" and args[2] is not None):
            self.of["bias"] += out.numel()
        elif name in ("bmm", "baddbmm"):
            self.of["products"] += args[0].numel() * args[1].shape[-1]
        return out


@cache
@torch.no_grad()
def count(row: Published) -> tuple[int, int]:
    """Parameters and multiply-adds of our network as the row's source counts them."""
    with torch.device("meta"):
        network = build_network(row.network, row.classes).eval()
    with FlopCounterMode(display=False) as flops, _Elements() as elements:
        network(torch.zeros(1, 3, row.frames, row.size, row.size, device="meta"))
    macs, of = flops.get_total_flops() // 2, elements.of
    if row.convention == "norms":
        macs += 5 * of["norm"]
    elif row.convention == "layers":
        macs += 2 * of["norm"] + of["relu"] + of["pool"] + of["bias"] - of["products"]
    return sum(parameter.numel() for parameter in network.parameters()), macs


def matches(row: Published) -> tuple[bool, bool]:
    """Whether parameters and multiply-adds, rounded as the source prints them, are the published ones."""
    parameters, macs = count(row)
    if isinstance(row.parameters, int):
        same = parameters == row.parameters
    else:
        same = _is_printed(row.parameters, parameters / 1e6)
    return same, _is_printed(row.gmacs, macs / 1e9)


def table() -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| network | clip | parameters | published | G multiply-adds | published | counted | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in PUBLISHED:
        parameters, macs = count(row)
        published = f"{row.parameters:,}" if isinstance(row.parameters, int) else row.parameters or "-"
        published += " M" if isinstance(row.parameters, str) else ""
        mark = ""
        if row.why:
            notes.append(row.why)
            mark = f" [{len(notes)}]"
        classes = "" if row.classes == 400 else f", {row.classes} classes"
        lines.append(
            f"| `{row.network}` | {row.frames} x {row.size}²{classes} | {parameters:,} | {published} "
            f"| {macs / 1e9:.2f} | {row.gmacs or '-'}{mark} | {_HOW[row.convention]} | {row.source} |"
        )
    return "\n".join([*lines, "", *(f"[{number}] Not matched: {why}." for number, why in enumerate(notes, 1)), ""])


def page(text: str) -> str:
    """A page with the table between its marks made anew."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}{table()}{MARKS[1]}{after}"


def main(arguments: list[str]) -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(prog="python -m fastplan.benchmarks.published")
    parser.add_argument("--write", action="store_true", help="put the table into docs/networks.md of a checkout")
    if parser.parse_args(arguments).write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")


def _is_printed(printed: str | None, value: float) -> bool:
    """Whether a value is the printed one, rounded to as many decimals."""
    return printed is None or f"{value:.{len(printed.partition('.')[2])}f}" == printed


if __name__ == "__main__":
    main(sys.argv[1:])
