"""Where the checkpoints of a run are: a folder, or any place that fsspec reaches from every worker.

Names are paths below the root, `start/c8/u16/epoch_0003.pt` for epoch 3 of the training that went from `start` over c8
to u16; they hold on every machine, whatever it calls the root. A store is its root alone, so it travels to workers.
"""

import io
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import torch

from fastplan.errors import UserError
from fastplan.train import checkpoint


@dataclass(frozen=True)
class Store:
    """Checkpoints below `root`, a folder or a URL of fsspec (s3://bucket/run); it is made when the first is saved.

    In a folder a crash leaves the old file or the new one; elsewhere that is the service's promise for one upload.
    Raises `UserError` where the place cannot be read or written.
    """

    root: str

    @staticmethod
    def weights_name(edge: str, epoch: int) -> str:
        """Name of the weights after an epoch of an edge; edge: its key, `start>c8>u16`."""
        return f"{edge.replace('>', '/')}/epoch_{epoch:04d}.pt"

    @staticmethod
    def optimizer_name(edge: str, epoch: int) -> str:
        """Name of what else the next epoch needs."""
        return f"{edge.replace('>', '/')}/epoch_{epoch:04d}.optimizer.pt"

    def try_out(self) -> None:
        """Write, read and delete a small file, so that a place that cannot be used is refused before any training."""
        name = "tried_out.pt"
        try:
            self.save(name, {})
            self.load(name, torch.device("cpu"))
            self.delete(name)
        except UserError as error:
            reason = str(error).partition(";")[0]
            raise UserError(f"{reason}; set checkpoints to a folder or URL that can be written") from None

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write one checkpoint."""
        if self._is_folder:
            checkpoint.save(Path(self.root) / name, content)
            return
        with io.BytesIO() as file:
            torch.save(content, file)
            data = file.getvalue()

        def write(system: Any, path: str) -> None:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)  # nothing on object stores
            system.pipe_file(path, data)

        self._elsewhere("write", name, write)

    def load(self, name: str, device: torch.device) -> dict[str, Any]:
        """Read one checkpoint; tensors only, no code."""
        if self._is_folder:
            return checkpoint.load(Path(self.root) / name, device)
        data = self._elsewhere("read", name, lambda system, path: system.cat_file(path))
        return checkpoint.read(io.BytesIO(data), device, name=f"{self.root}/{name}")

    def delete(self, name: str) -> None:
        """Delete a file that may be gone already."""
        if self._is_folder:
            (Path(self.root) / name).unlink(missing_ok=True)
        else:
            self._elsewhere("delete", name, lambda system, path: system.exists(path) and system.rm_file(path))

    def free_bytes(self) -> int | None:
        """What is free on its disk; None behind a URL."""
        if not self._is_folder:
            return None
        folder = Path(self.root).absolute()
        return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

    def names(self) -> list[str]:
        """Every file of the store."""
        if self._is_folder:
            root = Path(self.root)
            return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
        root_path = fsspec.core.url_to_fs(self.root)[1].rstrip("/")
        found = self._elsewhere("list", "", lambda system, path: system.find(root_path))
        return sorted(path.removeprefix(f"{root_path}/") for path in found)

    def delete_all_but(self, names: set[str], *, edges: Iterable[str] = ()) -> None:
        """Delete every file but `names` and those of the trainings `edges` (keys), to which workers may be writing."""
        folders = {edge.replace(">", "/") for edge in edges}
        for name in self.names():
            if name not in names and name.rpartition("/")[0] not in folders:
                self.delete(name)
        if self._is_folder:
            root = Path(self.root)
            in_use = {above for folder in folders for above in ((root / folder), *(root / folder).parents)}
            for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
                if folder not in in_use and not any(folder.iterdir()):
                    folder.rmdir()

    @property
    def _is_folder(self) -> bool:
        return "://" not in self.root

    def _elsewhere(self, verb: str, name: str, action: Any) -> Any:
        try:
            system, root = fsspec.core.url_to_fs(self.root)
            return action(system, f"{root.rstrip('/')}/{name}")
        except FileNotFoundError:
            if verb == "list":
                return []
            raise UserError(
                f"the checkpoint {self.root}/{name} is missing; start a new run in another folder"
            ) from None
        except (OSError, ImportError, ValueError) as error:
            raise UserError(f"cannot {verb} {self.root}/{name}: {error}") from None
