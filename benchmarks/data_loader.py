"""PyTorch's `DataLoader` as a contender: processes that are started once and get new clips to make each time."""

import torch

from fastplan.benchmarks import peers
from fastplan.benchmarks.peers import Job


class JobProcesses:
    """A `DataLoader` over jobs; `workers` processes make batches of `batch` clips."""

    def __init__(self, workers: int, batch: int) -> None:
        self._workers, self._batch = workers, batch
        self._jobs: list[list[tuple[str, Job]]] = []
        self._started = False
        self._loader = torch.utils.data.DataLoader(
            peers.PyavClips(),
            batch_sampler=self._jobs,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=True,
            multiprocessing_context="spawn",  # forking a process that has threads may hang
        )

    def start(self, way: str, job: Job) -> None:
        """Let every process make a clip before any is timed."""
        if not self._started:
            self.run(way, [job] * self._batch * self._workers)
            self._started = True

    def run(self, way: str, jobs: list[Job]) -> int:
        """All clips of these jobs; how many batches they made. way: the configuration of PyAV."""
        asked = [(way, job) for job in jobs]
        self._jobs[:] = [asked[k : k + self._batch] for k in range(0, len(asked), self._batch)]
        made = sum(1 for _ in self._loader)
        assert made == len(self._jobs)
        return made

    def __enter__(self) -> "JobProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        del self._loader
