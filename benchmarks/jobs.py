"""Samples of the plan in words that a peer understands, and the augmentation that both sides carry out."""

from fastplan.benchmarks.peers import Job
from fastplan.config import AugmentConfig
from fastplan.data.colour import colour_map
from fastplan.data.index import VideoIndex
from fastplan.data.rgb import crop_box
from fastplan.data.sampling import EpochSamples

AUGMENT = AugmentConfig(grey=0.0, blur=0.0)  # random resized crop, flip, colour jitter, normalisation


def jobs_of(index: VideoIndex, samples: EpochSamples, size: int) -> list[Job]:
    """The same clips in words that a peer understands."""
    changes = samples.changes
    jobs = []
    for place, number in enumerate(samples.videos_M.tolist()):
        video = index.videos[number]
        jobs.append(
            Job(
                video.path,
                tuple(samples.frames_MT[place].tolist()),
                crop_box(changes.crops_M4[place].tolist(), video.width, video.height),
                size,
                bool(changes.flips_M[place]),
                colour_map(*changes.colours_M4[place].tolist()),
                AUGMENT.mean,
                AUGMENT.std,
            )
        )
    return jobs
