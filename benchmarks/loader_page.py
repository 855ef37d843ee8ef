"""The page of the loader's benchmark: how it was measured, the table, and why a row is not where it should be."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from fastplan.benchmarks import peers, videos
from fastplan.benchmarks.contest import BATCH, FLOOR, OURS, SAME_CLIP, SAME_FRAME, SIZE_PX, WORKERS, Plan, Row
from fastplan.benchmarks.cost import load, processor, spread

_KEPT = "kept open"  # in the names of configurations
_NEAR = 0.9  # of a peer's CPU time: decoding alone hardly ever takes more where both decode the same packets


def head(words: str, plan: Plan, source: Path | None, minutes: float) -> str:
    """Command, machine, versions, and how it was measured. words: the command."""
    origin = f"`{source.name}`" if source else "drawn pictures"
    return f"""# The loader beside other ways to the same clips

`{words}`: {processor()}, no GPU, {peers.versions()};
{minutes:.0f} minutes at a load of {load():.1f} (this run and whatever ran beside it).

{plan.files} videos a set of {videos.FRAMES} frames, short side {videos.SHORT_SIDE_PX}, made from {origin}. Every clip
is cropped and mirrored at random, scaled to {SIZE_PX} x {SIZE_PX}, changed in colour and normalised, on all sides
the same; {WORKERS} decoding threads or processes, batches of {BATCH}. Before a row is timed, full-size frames of each
peer (mean difference at most {SAME_FRAME:g} of 255: colours are converted a little differently) and finished clips (at
most {SAME_CLIP:g}) are compared with ours. CPU ms per clip of the whole process tree: median (smallest to largest) of
{plan.repeats} repeats in turns, n clips each; then clips/s on the clock (median). Every repeat has other clips, for all
the same, so shares of the best peer are medians of the repeats' own. A peer's best configuration is found
by a trial for each encoding and kind of clip; one that is "kept open" has a decoder for every video in every thread,
which a data set of many files does not allow. `decoding alone` feeds our packets to FFmpeg and looks at nothing.
"""


def table(rows: Sequence[Row]) -> str:
    """A line for each row, a column for each contender."""
    names = [OURS, FLOOR, *sorted({name for row in rows for name in row.times} - {OURS, FLOOR})]
    lines = [
        f"| videos | clip | n | {' | '.join(names)} | ours / best peer |",
        f"|---|---|---|{'---|' * len(names)}---|",
    ]
    for row in rows:
        cells = [_cell(row.times[name]) if name in row.times else "-" for name in names]
        best = row.best_peer()
        verdict = f"**{row.ratio:.2f}** {best}"
        lines.append(f"| {row.encoding} | {row.regime} | {row.clips} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def _cell(times: Sequence[tuple[float, float]]) -> str:
    return f"{spread([ms for _, ms in times])}; {statistics.median(rate for rate, _ in times):.0f}/s"


def explained(rows: Sequence[Row], missing: dict[str, str]) -> str:
    """Why rows are behind, which configurations were best, and what was left out. missing: peers with advice."""
    lines = [f"- {peer}: {advice}" for peer, advice in missing.items()]
    lines += [_behind(row) for row in rows if row.ratio > _aim(row)]
    ways = sorted({f"{peer} ({way})" for row in rows for peer, way in row.ways.items()})
    notes = sorted({note for row in rows for note in row.notes})
    lines += [f"- Configurations that were best on some row: {'; '.join(ways)}."]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _behind(row: Row) -> str:
    """Why a row is not where it should be, as far as the figures say it."""
    aim, best = _aim(row), row.best_peer()
    words = f"- {row.encoding}, {row.regime}: {row.ratio:.2f} of {best}, where "
    words += f"{aim:g} was the aim" if aim < 1 else "not to be behind was the aim"
    rest_ms = row.cpu_ms(OURS) - row.cpu_ms(FLOOR)
    if row.floor >= aim:
        why = "which cannot be had with this decoder: feeding it the packets that cannot be left out takes"
        words += f", {why} {row.floor:.2f} already, all the rest {rest_ms:.1f} ms a clip."
    else:
        allowed_ms = aim * row.cpu_ms(best) - row.cpu_ms(FLOOR)
        words += f"; decoding the packets that cannot be left out takes {row.floor:.2f} already, which leaves "
        words += f"{allowed_ms:.1f} ms a clip for cropping, scaling, colours and threads, and they take {rest_ms:.1f}."
    if row.floor > _NEAR and _KEPT in row.ways.get(best, ""):
        words += f" {best} was {_KEPT}: it can go on from where its last clip of a video ended, where that is nearer."
    return words


def _aim(row: Row) -> float:
    if row.encoding.startswith("H.264") and row.regime in ("16 consecutive", "4 segments of 4"):
        return 0.5 if "250" in row.encoding and "segments" in row.regime else 0.7
    return 1.0
