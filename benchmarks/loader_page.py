"""The page of the loader's benchmark: how it was measured, the table, and why a row is not where it should be."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from fastplan.benchmarks import peers, videos
from fastplan.benchmarks.contest import BATCH, FLOOR, OURS, SAME_CLIP, SAME_FRAME, SIZE_PX, WORKERS, Plan, Row
from fastplan.benchmarks.cost import load, processor, spread


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
the same, so shares of a peer are medians of the repeats' own. A peer's best configuration is found by a trial for each
encoding and kind of clip. Peers open a video for each clip; with torchcodec's `mappings` they need not read its index
again. "Kept open" they have a decoder for every video in every thread, which only a few dozen videos allow, and
which goes on from where the last clip of a video ended, where that is nearer; so they stand apart: best peers and aims
are of the others. `decoding alone` feeds our packets to FFmpeg and looks at nothing.
"""


def table(rows: Sequence[Row]) -> str:
    """A line for each row, a column for each contender."""
    names = [OURS, FLOOR, *sorted({name for row in rows for name in row.times} - {OURS, FLOOR})]
    lines = [
        f"| videos | clip | n | {' | '.join(names)} | ours / best peer | ours / best kept open |",
        f"|---|---|---|{'---|' * len(names)}---|---|",
    ]
    for row in rows:
        cells = [_cell(row.times[name]) if name in row.times else "-" for name in names]
        best, kept = row.best_peer(), row.best_kept()
        cells.append(f"**{row.share(OURS, best):.2f}** {best}")
        cells.append(f"{row.share(OURS, kept):.2f} {kept.removesuffix(peers.KEPT_OPEN)}" if kept else "-")
        lines.append(f"| {row.encoding} | {row.regime} | {row.clips} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(times: Sequence[tuple[float, float]]) -> str:
    return f"{spread([ms for _, ms in times])}; {statistics.median(rate for rate, _ in times):.0f}/s"


def explained(rows: Sequence[Row], missing: dict[str, str]) -> str:
    """Why rows are behind, which configurations were best, and what was left out. missing: peers with advice."""
    lines = [f"- {peer}: {advice}" for peer, advice in missing.items()]
    lines += [_behind(row) for row in rows if row.share(OURS, row.best_peer()) > _aim(row)]
    ahead = sum(row.share(OURS, row.best_peer()) <= 1 for row in rows)
    kept = [row.share(OURS, best) for row in rows if (best := row.best_kept())]
    of_kept = f"{sum(share <= 1 for share in kept)} of {len(kept)}"
    lines.append(f"- Ahead of every peer on {ahead} of {len(rows)} rows; of those kept open on {of_kept}.")
    ways = sorted({f"{peer} ({way})" for row in rows for peer, way in row.ways.items()})
    notes = sorted({note for row in rows for note in row.notes})
    lines += [f"- Configurations that were best on some row: {'; '.join(ways)}."]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _behind(row: Row) -> str:
    """Why a row is not where it should be, as far as the figures say it."""
    aim, best = _aim(row), row.best_peer()
    floor = row.share(FLOOR, best)
    words = f"- {row.encoding}, {row.regime}: {row.share(OURS, best):.2f} of {best}, where "
    words += f"{aim:g} was the aim" if aim < 1 else "not to be behind was the aim"
    rest_ms = row.cpu_ms(OURS) - row.cpu_ms(FLOOR)
    if floor >= aim:
        why = "which cannot be had with this decoder: feeding it the packets that cannot be left out takes"
        return f"{words}, {why} {floor:.2f} already, all the rest {rest_ms:.1f} ms a clip."
    allowed_ms = aim * row.cpu_ms(best) - row.cpu_ms(FLOOR)
    words += f"; decoding the packets that cannot be left out takes {floor:.2f} already, which leaves {allowed_ms:.1f} "
    return f"{words}ms a clip for cropping, scaling, colours and threads, and they take {rest_ms:.1f}."


def _aim(row: Row) -> float:
    if row.encoding.startswith("H.264") and row.regime in ("16 consecutive", "4 segments of 4"):
        return 0.5 if "250" in row.encoding and "segments" in row.regime else 0.7
    return 1.0
