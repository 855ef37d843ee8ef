"""Clips that could not be read during a run: counted, listed with their reasons, limited, and lost again on resume."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from fastplan.data.crashes import Crashes
from fastplan.data.index import VideoIndex
from fastplan.errors import UserError

_NAMED = 10


@dataclass(frozen=True)
class LostClip:
    """A clip that could not be read, and why.

    path: of its video. stream, epoch, place: where it was drawn. instead: the place of the same epoch whose sample was
    taken twice for it, None where nothing was (evaluation).
    """

    path: str
    reason: str
    stream: str
    epoch: int
    place: int
    instead: int | None


class LostClips:
    """The clips lost so far in a run.

    max_fraction: of the videos of an index that may be bad before a run stops. before: what an interrupted run had
    lost: those clips are not tried again, so that the run repeats itself. on_lost: told about each new one.
    """

    def __init__(
        self,
        max_fraction: float = 0.1,
        *,
        before: Iterable[LostClip] = (),
        on_lost: Callable[[LostClip], None] = lambda clip: None,
    ) -> None:
        self._max_fraction = max_fraction
        self._on_lost = on_lost
        self._clips = {_key(clip): clip for clip in before}
        self._bad: list[tuple[VideoIndex, dict[str, str]]] = []
        self._crashes: Crashes | None = None

    def __len__(self) -> int:
        return len(self._clips)

    def watch(self, crashes: Crashes) -> None:
        """Lose every clip of the videos that have crashed a decoder, and note what is being decoded."""
        self._crashes = crashes

    def reading(self, path: str) -> AbstractContextManager[None]:
        """While the calling thread decodes this video."""
        return nullcontext() if self._crashes is None else self._crashes.reading(path)

    @property
    def crashed(self) -> dict[str, str]:
        """Videos that are not tried any more, and why."""
        return {} if self._crashes is None else self._crashes.files

    @property
    def clips(self) -> list[LostClip]:
        """All of them, in the order in which they were met."""
        return list(self._clips.values())

    @property
    def files(self) -> dict[str, str]:
        """Each bad video and what was wrong with it first."""
        files = dict(self.crashed)
        for clip in self.clips:
            files.setdefault(clip.path, clip.reason)
        return files

    def find(self, path: str, stream: str, epoch: int, place: int) -> LostClip | None:
        """The entry of this clip, if it was lost before."""
        return self._clips.get((path, stream, epoch, place))

    def add(self, clip: LostClip) -> None:
        """Note a loss."""
        self._clips[_key(clip)] = clip
        self._on_lost(clip)

    def count(self, path: str, reason: str, index: VideoIndex) -> None:
        """Count a bad video of `index`. Raises `UserError` where too many are bad by now."""
        bad = next((files for known, files in self._bad if known is index), None)
        if bad is None:
            bad = {}
            self._bad.append((index, bad))
        if path not in bad:
            bad[path] = reason
            self.check(index)

    def check(self, index: VideoIndex) -> None:
        """Raise `UserError` where too many of the videos of `index` are bad: left out of it, or lost since."""
        bad = {video.path: video.reason for video in index.bad}
        bad |= next((files for known, files in self._bad if known is index), {})
        total = len(index) + len(index.bad)
        if len(bad) <= self._max_fraction * total:
            return
        named = "; ".join(f"{path}: {reason}" for path, reason in list(bad.items())[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise UserError(
            f"{len(bad)} of {total} videos cannot be read, more than data.max_bad_fraction={self._max_fraction:g} "
            f"allows ({named}{more}): mend or remove them, or raise it"
        )


def _key(clip: LostClip) -> tuple[str, str, int, int]:
    return clip.path, clip.stream, clip.epoch, clip.place
