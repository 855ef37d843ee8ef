"""The ranks of a run: processes that torchrun started and that train every edge together.

The one module that knows torch.distributed; the kernels know the name of the group over which they merge BatchNorm
statistics. A process without others is `ALONE`, for which everything here is the identity, so nobody else asks whether
there are ranks. What is on the CPU travels over gloo, what is on GPUs over nccl. All ranks must call the same methods
in the same order; one that fails in between ends its process, and torchrun the others.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Literal, TypeVar

import torch
import torch.distributed as dist

from fastplan.errors import UserError

Result = TypeVar("Result")

_PATIENCE = timedelta(days=2)  # the others wait while rank 0 probes videos; a rank that died is torchrun's business


class Ranks:
    """This process among `world`, `local_world` of which are on this machine. Use as a context manager.

    Left without an error, rank 0 tells the others that nothing more comes. Left with one, the first rank to fail tells
    the user; the others end without a word, with status 2.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        *,
        local_rank: int = 0,
        local_world: int = 1,
        store: dist.Store | None = None,
    ) -> None:
        """store: seen by all ranks of a connected group, None for a process alone."""
        self.rank, self.world, self.local_rank, self.local_world = rank, world, local_rank, local_world
        self._store = store

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._store is None:
            return
        if error is None:
            if self.rank == 0:
                self.broadcast("")
            dist.destroy_process_group()
            return
        if isinstance(error, SystemExit) and not error.code:
            self.__exit__(None, None, None)  # such as --help
            return
        is_first = self._store.add("failed", 1) == 1
        if isinstance(error, KeyboardInterrupt):
            if self.rank:
                raise SystemExit(130) from None
        elif not is_first:
            raise SystemExit(2) from None
        elif _is_lost_peer(error):
            raise UserError(
                "another rank of this run has ended; finished epochs are kept: see to the cause, then start torchrun "
                "again with --resume"
            ) from None

    @property
    def group(self) -> str:
        """Name of the group of all ranks for BatchNorm; empty for a process alone."""
        return dist.group.WORLD.group_name if dist.group.WORLD is not None else ""

    def share(self, clips: int) -> int:
        """This rank's part of a batch of so many clips. Raises `ValueError` where they cannot be shared evenly."""
        if clips % self.world:
            raise ValueError(f"{clips} clips cannot be shared evenly by {self.world} ranks")
        return clips // self.world

    def share_threads(self, threads: int) -> int:
        """This rank's part of the threads of its machine."""
        return max(threads // self.local_world, 1)

    def describe(self, device: torch.device | None = None) -> str:
        """For the first lines of a run; empty for a process alone. device: that is trained on, if known."""
        if self._store is None:
            return ""
        machines = "" if self.local_world == self.world else f", {self.local_world} of them on this machine"
        backend = "" if device is None else f", {'nccl' if device.type == 'cuda' else 'gloo'}"
        return f"{self.world} ranks of torchrun{machines}{backend}: each takes 1/{self.world} of every batch"

    def mean_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors of one device by their means over all ranks, in one all-reduce."""
        if self._store is None:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            torch._foreach_copy_(list(tensors), [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)])

    def reduce_(self, tensor: torch.Tensor, how: Literal["sum", "max"]) -> None:
        """Replace a tensor by its sum or maximum over all ranks."""
        if self._store is not None:
            dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)

    def greatest(self, *values: float) -> list[float]:
        """The greatest of each value over all ranks."""
        found = torch.tensor(values, dtype=torch.float64)
        self.reduce_(found, "max")
        return found.tolist()

    def check_alike(self, weights: Sequence[torch.Tensor]) -> None:
        """Raise `RuntimeError`, in every rank, where their weights are not the same."""
        if self._store is None:
            return
        total = float(torch.stack([weight.detach().double().abs().sum() for weight in weights]).sum())
        highest, lowest = self.greatest(total, -total)
        if highest + lowest > 1e-6 * highest:
            raise RuntimeError(f"the weights of the ranks have parted: their sums lie between {-lowest} and {highest}")

    def broadcast(self, text: str | None = None) -> str:
        """What rank 0 says, in every rank; empty at the end of the run."""
        if self._store is None:
            return text or ""
        content = torch.frombuffer(bytearray((text or "").encode() or b"\0"), dtype=torch.uint8)
        size = torch.tensor([len(content) if text else 0])
        dist.broadcast(size, src=0)
        if not int(size):
            return ""
        if self.rank:
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        return content.numpy().tobytes().decode()

    def gather(self, text: str) -> list[str]:
        """What every rank says, by rank."""
        if self._store is None:
            return [text]
        content = text.encode()
        longest = int(self.greatest(len(content))[0])
        mine = torch.zeros(longest + 8, dtype=torch.uint8)
        mine[:8] = torch.frombuffer(bytearray(len(content).to_bytes(8, "little")), dtype=torch.uint8)
        mine[8 : 8 + len(content)] = torch.tensor(list(content), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        said = [part.numpy().tobytes() for part in found]
        return [part[8 : 8 + int.from_bytes(part[:8], "little")].decode() for part in said]

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Do something in rank 0 first, then in one rank of every other machine, then in the others at once.

        So what the first one leaves in a cache of its machine is there for the next.
        """
        turn = 0 if self.rank == 0 else 1 if self.local_rank == 0 else 2
        results: list[Result] = []
        for stage in range(3):
            if stage == turn:
                results.append(work())
            self.greatest(0.0)
        return results[0]


ALONE = Ranks()


def open_ranks() -> Ranks:
    """The ranks that torchrun started, met and connected; `ALONE` where it started one or was not used."""
    if not is_launched():
        return ALONE
    # what torch names instead has no gradient in the oldest torch that is allowed
    warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.all_reduce", FutureWarning)
    store, rank, world = next(dist.rendezvous("env://", timeout=_PATIENCE))
    with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if with_gpus else "gloo", store=store, rank=rank, world_size=world, timeout=_PATIENCE
    )
    return Ranks(
        rank,
        world,
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_world=int(os.environ["LOCAL_WORLD_SIZE"]),
        store=dist.PrefixStore("fastplan", store),
    )


def backends() -> str:
    """What ranks would be connected by here, for a person."""
    return "gloo between CPUs, " + ("nccl between GPUs" if dist.is_nccl_available() else "no nccl for GPUs")


def is_launched() -> bool:
    """Whether torchrun started this process and others."""
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def _is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone: gloo has no exception of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
