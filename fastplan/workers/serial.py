"""One worker: this process."""

from collections.abc import Callable

import torch

from fastplan.data.lost import LostClips
from fastplan.data.splits import Splits
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.edge import EdgeTrainer, Equipment, Request
from fastplan.workers import Answered


class SerialWorker:
    """Answers in the calling process, while `wait` is called. on_step: called with (edge's key, step, steps)."""

    def __init__(
        self,
        equipment: Equipment,
        splits: Splits,
        device: torch.device,
        *,
        threads: int,
        lost: LostClips,
        on_step: Callable[[str, int, int], None],
        ranks: Ranks = ALONE,
    ) -> None:
        self._request: Request | None = None
        self._tell = on_step
        self._trainer = EdgeTrainer(
            equipment, splits, device, threads=threads, lost=lost, on_step=self._on_step, ranks=ranks
        )

    @property
    def names(self) -> list[str]:
        """One slot, without a name."""
        return [""]

    def submit(self, slot: int, request: Request) -> None:
        """Remember the request."""
        assert slot == 0 and self._request is None
        self._request = request

    def wait(self) -> Answered:
        """Do it."""
        assert self._request is not None
        answer = self._trainer.answer(self._request)
        self._request = None
        return Answered(0, answer)

    def close(self) -> None:
        """Stop the decoding threads."""
        self._trainer.close()

    def _on_step(self, step: int, steps: int) -> None:
        assert self._request is not None
        self._tell(self._request.edge.key, step, steps)
