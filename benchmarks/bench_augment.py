"""What augmentation costs without a GPU: the compiled pass beside DALI's operators, after both gave the same clips.

python -m fastplan.benchmarks.bench_augment
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastplan.benchmarks.cost import measured, processor, spread
from fastplan.benchmarks.peers import versions
from fastplan.config import AugmentConfig
from fastplan.data.augmentation import RAND_AUGMENT, Changes, no_changes
from fastplan.data.dali import ClipPipeline

BATCH, FRAMES, SIZE_PX, REPEATS, THREADS = 8, 16, 224, 7, 2
WAYS = {"compiled pass": True, "DALI's operators": False}
APART, APART_ON_AVERAGE = 2.5, 0.6  # of 255: DALI rounds to whole numbers behind each operator
OFF: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}


def cases() -> dict[str, tuple[AugmentConfig, Changes]]:
    """By name, what is drawn for every clip of the batch, and the settings that put its operators into the pipeline."""
    none = no_changes(np.tile(np.array([0, 0, 1, 1], np.float32), (BATCH, 1)))
    jitter, blur, erase = (AugmentConfig(**OFF | {name: 1.0}) for name in ("jitter", "blur", "erase"))

    def drawn(**values: npt.ArrayLike) -> Changes:
        arrays = {name: np.array(value, getattr(none, name).dtype) for name, value in values.items()}
        tiled: dict[str, Any] = {name: np.stack([value] * BATCH) for name, value in arrays.items()}
        return replace(none, **tiled)

    found = {
        "nothing drawn": (AugmentConfig(**OFF), none),
        "colour": (jitter, drawn(colours_M4=[1.1, 0.9, 1.2, 9.0])),
        **{f"blur, sigma {sigma:g}": (blur, drawn(blurs_M=sigma)) for sigma in (0.5, 1.0, 2.0)},
        "erase": (erase, drawn(erased_M4=[0.2, 0.2, 0.6, 0.5])),
    }
    for name in ("equalize", "rotate", "contrast"):
        moved = AugmentConfig(**OFF | {"rand_augment": 1.0, "rand_augment_steps": 1})
        found[f"RandAugment: {name}"] = (moved, drawn(moves_MK3=[[RAND_AUGMENT.index(name), 9, 0]]))
    return found


def main() -> None:
    """Compare, time, print the table."""
    torch.set_num_threads(1)
    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, FRAMES, 3, SIZE_PX // 8, SIZE_PX // 8), np.uint8)
    clips = list(coarse.repeat(8, axis=3).repeat(8, axis=4))
    print(f"{processor()}, {versions(compared=False)}; CPU ms a clip of {FRAMES} x {SIZE_PX} x {SIZE_PX},")
    print(f"median (least to most) of {REPEATS} batches of {BATCH}, {THREADS} threads\n")
    print(f"| drawn for every clip | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for name, (augment, changes) in cases().items():
        costs = costs_of(augment, changes, clips)
        print(f"| {name} | {' | '.join(spread(costs[way]) for way in WAYS)} |", flush=True)


def costs_of(augment: AugmentConfig, changes: Changes, clips: list[npt.NDArray[np.uint8]]) -> dict[str, list[float]]:
    """CPU ms a clip of each repeat, by way, in turns. Raises `AssertionError` where the ways give different clips."""
    size = clips[0].shape[-1]
    pipelines = {
        way: ClipPipeline(
            decoder="host", device_id=None, compiled=compiled, max_batch=len(clips), threads=THREADS, augment=augment
        )
        for way, compiled in WAYS.items()
    }
    first, second = (pipeline.run(clips, changes, size=size).numpy() for pipeline in pipelines.values())
    away = np.abs(first - second) * 255 * np.array(augment.std)[:, None, None, None]
    assert away.max() <= APART and away.mean() < APART_ON_AVERAGE, f"up to {away.max():.1f} of 255 apart"
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, pipeline in pipelines.items():
            with measured() as cost:
                pipeline.run(clips, changes, size=size)
            costs[way].append(1e3 * cost.cpu_s / len(clips))
    for pipeline in pipelines.values():
        pipeline.close()
    return costs


if __name__ == "__main__":
    main()
