"""Ranks: processes that torchrun started answer every request together, in lock-step.

The first drives: it has the planner, the journal, the run folder and the terminal, and tells the others what it is
about to do, as JSON. They follow: they read no command line, print nothing and write no file of the run.
"""

from collections.abc import Callable

from pydantic import TypeAdapter

from fastplan.data.batch import default_threads
from fastplan.data.crashes import Crashes
from fastplan.data.index import VideoIndex
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.splits import Progress, Splits
from fastplan.errors import UserError
from fastplan.planner.states import State
from fastplan.train.distributed import Ranks
from fastplan.train.edge import EdgeTrainer, Equipment, Request
from fastplan.train.evaluate import Evaluation
from fastplan.train.precision import Precision, choose_device
from fastplan.train.testing import NetworkTest
from fastplan.workers import Answered
from fastplan.workers.serial import SerialWorker

_EQUIPMENT, _REQUEST, _TEST = TypeAdapter(Equipment), TypeAdapter(Request), TypeAdapter(NetworkTest)
_CLIPS = TypeAdapter(list[LostClip])


def check_shares(states: list[State], ranks: Ranks) -> None:
    """Raise `UserError` naming the first state whose batch the ranks cannot share evenly."""
    for state in states:
        if state.batch_size % ranks.world:
            most = [n for n in range(1, ranks.world) if all(s.batch_size % n == 0 for s in states)][-1]
            raise UserError(
                f"state '{state.name}' has a batch_size of {state.batch_size} clips, which the {ranks.world} ranks of "
                f"torchrun cannot share evenly: make it a multiple of {ranks.world}, with batch_size x accumulate as "
                f"it was, or start {most} rank{'s' if most > 1 else ''}"
            )


class RankWorker:
    """The driver's part in the answers of all ranks. Others must be in `follow`.

    lost: takes the clips that any rank could not read. open_serial: makes what answers in this rank, with the same
    equipment.
    """

    def __init__(
        self,
        ranks: Ranks,
        equipment: Equipment,
        splits: Splits,
        lost: LostClips,
        open_serial: Callable[[], SerialWorker],
    ) -> None:
        self._ranks, self._lost = ranks, SharedLosses(ranks, lost, splits.train, splits.val)
        ranks.broadcast(f"equipment {_EQUIPMENT.dump_json(equipment).decode()}")
        ranks.in_turn(lambda: None)
        self._serial = open_serial()

    @property
    def names(self) -> list[str]:
        """One slot."""
        return [f"{self._ranks.world} ranks"]

    def submit(self, slot: int, request: Request) -> None:
        """Tell all ranks."""
        self._ranks.broadcast(f"request {_REQUEST.dump_json(request).decode()}")
        self._serial.submit(slot, request)

    def wait(self) -> Answered:
        """Do it."""
        answered = self._serial.wait()
        self._lost.share()
        return answered

    def close(self) -> None:
        """Stop the decoding threads of this rank; the others stop theirs when they hear of something else."""
        self._serial.close()


def run_test(
    test: NetworkTest, index: VideoIndex, precision: Precision, *, lost: LostClips, progress: Progress, ranks: Ranks
) -> Evaluation:
    """`NetworkTest.run` by all ranks; the others must be in `follow`. lost: takes what any of them could not read."""
    if ranks.world == 1:
        return test.run(index, precision, lost=lost, progress=progress)
    check_shares([test.target], ranks)
    losses = SharedLosses(ranks, lost, index, index)
    ranks.broadcast(f"test {_TEST.dump_json(test).decode()}")
    ranks.in_turn(lambda: None)
    result = test.run(index, precision, lost=lost, progress=progress, ranks=ranks)
    losses.share()
    return result


def follow(ranks: Ranks) -> None:
    """Do what the first rank does until it has nothing more to do. Raises `UserError` where this rank cannot."""
    follower = _Follower(ranks)
    try:
        while text := ranks.broadcast():
            kind, _, content = text.partition(" ")
            if kind == "equipment":
                follower.equip(_EQUIPMENT.validate_json(content))
            elif kind == "request":
                follower.answer(_REQUEST.validate_json(content))
            else:
                follower.test(_TEST.validate_json(content))
    finally:
        follower.close()


class _Follower:
    """A rank that is not the first, and what it has open."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._trainer: EdgeTrainer | None = None
        self._lost: SharedLosses | None = None
        self._crashes: Crashes | None = None

    def equip(self, equipment: Equipment) -> None:
        """Open the videos, the network and its loaders."""
        self.close()
        config, ranks = equipment.config, self._ranks
        lost = LostClips(config.data.max_bad_fraction, before=equipment.lost)
        if equipment.crashes is not None and equipment.crashes.is_dir():
            self._crashes = Crashes(equipment.crashes)
            lost.watch(self._crashes)
        device, _ = choose_device(config.device, ranks)
        threads = ranks.share_threads(config.data.threads or default_threads())
        splits = ranks.in_turn(lambda: equipment.open_splits(threads))
        self._lost = SharedLosses(ranks, lost, splits.train, splits.val)
        self._trainer = EdgeTrainer(
            equipment, splits, device, threads=threads, lost=lost, on_step=lambda step, steps: None, ranks=ranks
        )

    def answer(self, request: Request) -> None:
        """Answer as the first rank does, which passes the answer on."""
        assert self._trainer is not None and self._lost is not None
        self._trainer.answer(request)
        self._lost.share()

    def test(self, test: NetworkTest) -> None:
        """Test this rank's part of the videos."""
        self.close()
        config, ranks = test.config, self._ranks
        device, _ = choose_device(config.device, ranks)
        index = ranks.in_turn(lambda: test.open_videos(lambda title, total: lambda: None))
        lost = LostClips(config.data.max_bad_fraction, before=test.lost)
        losses = SharedLosses(ranks, lost, index, index)
        test.run(index, Precision(config.train.precision, device, "as trained"), lost=lost, ranks=ranks)
        losses.share()

    def close(self) -> None:
        """Stop the decoding threads."""
        if self._trainer is not None:
            self._trainer.close()
        if self._crashes is not None:
            self._crashes.close()
        self._trainer = self._crashes = None


class SharedLosses:
    """Makes the clips that one rank could not read known to all, each of which counts them.

    train, evaluated: the videos that clips come from.
    """

    def __init__(self, ranks: Ranks, lost: LostClips, train: VideoIndex, evaluated: VideoIndex) -> None:
        self._ranks, self._lost, self._train, self._evaluated = ranks, lost, train, evaluated
        self._shared = len(lost)

    def share(self) -> None:
        """Tell and hear of new ones. Raises `UserError`, in every rank, where too many videos are bad by now."""
        lost = self._lost
        for said in self._ranks.gather(_CLIPS.dump_json(lost.clips[self._shared :]).decode()):
            for clip in _CLIPS.validate_json(said):
                if lost.find(clip.path, clip.stream, clip.epoch, clip.place) is None:
                    lost.add(clip)
                    lost.count(clip.path, clip.reason, self._evaluated if clip.stream == "evaluation" else self._train)
        self._shared = len(lost)
