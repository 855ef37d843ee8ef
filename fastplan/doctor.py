"""What this machine has and can do: versions, GPU, decoders, optional parts."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastplan import __version__
from fastplan.data.dali import cpu_decodes
from fastplan.data.decoders import CPU_CODECS, MEASURED, NO_NVDEC, NVDEC_CODECS, nvdec_library
from fastplan.data.synthetic import write_grey
from fastplan.ops import choose_kernels
from fastplan.train.distributed import ALONE, Ranks, backends
from fastplan.train.precision import choose_device

_PACKAGES = ("torch", "triton", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "av", "numpy", "scipy", "numba")
_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "mpeg4": "mpeg4",
    "mjpeg": "mjpeg",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
}


def environment() -> dict[str, Any]:
    """Versions and hardware, as saved with every run."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "fastplan": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "command": sys.argv,
        **{name: version for name, version in versions.items() if version},
    }


def examine(ranks: Ranks = ALONE) -> list[tuple[str, str]]:
    """(what, finding) rows for a person. ranks: that were started."""
    facts = environment()
    rows = [("fastplan", f"{facts['fastplan']}, Python {facts['python']}, {facts['cpus']} CPU cores")]
    rows += [(name, facts[name]) for name in _PACKAGES if name in facts]
    rows.append(("GPU", ", ".join(facts["gpus"]) or "none that PyTorch can use: training runs on the CPU"))
    rows.append(("ranks", f"{ranks.describe() or 'this process; torchrun starts more'}; {backends()}"))
    rows.append(("NVDEC", _nvdec()))
    rows.append(("DALI on the CPU", _dali_codecs()))
    rows.append(("decoder", _decoder_rule()))
    rows.append(("kernels", choose_kernels("auto", choose_device("auto")[0]).line))
    rows.append(("apex", _apex()))
    builds = [name for name in ("nvidia-dali-cuda120", "nvidia-dali-cuda130") if name in facts]
    if len(builds) == 2:
        rows.append(
            (
                "DALI builds",
                "two share one folder; keep one: pip uninstall -y nvidia-dali-cuda120 && "
                "pip install --force-reinstall --no-deps nvidia-dali-cuda130",
            )
        )
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvdec() -> str:
    if found := nvdec_library():
        return f"{found} found"
    return NO_NVDEC if torch.cuda.is_available() else "none: videos are decoded by PyAV threads"


def _dali_codecs() -> str:
    """Decode a small file of each codec through DALI without a GPU."""
    works: list[str] = []
    fails: list[str] = []
    picture_THW = np.zeros((4, 64, 64), np.uint8)
    with tempfile.TemporaryDirectory() as folder, _quiet_stderr():
        for codec, encoder in _ENCODERS.items():
            file = Path(folder) / f"{codec}.mkv"
            write_grey(file, picture_THW, encoder=encoder)
            (works if cpu_decodes(np.fromfile(file, np.uint8)) else fails).append(codec)
    return f"decodes {', '.join(works) or 'nothing'}; not {', '.join(fails) or 'anything less'} (PyAV decodes these)"


def _decoder_rule() -> str:
    """What `data.decoder=auto` does on this machine."""
    if torch.cuda.is_available() and nvdec_library():
        codecs = f"{', '.join(NVDEC_CODECS)} of 8 bits, 4:2:0, upright, with a packet table"
        return f"NVDEC through DALI, from cuts, for videos in {codecs}; PyAV threads for the others"
    if torch.cuda.is_available():
        return f"PyAV threads for every video: {NO_NVDEC}"
    asked = f"data.decoder=dali gives DALI those in {', '.join(CPU_CODECS)}"
    return f"PyAV threads for every video, which cost less without a GPU ({MEASURED}); {asked}"


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Encoders and DALI write to the process's standard error, past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _apex() -> str:
    """NVIDIA's apex is no PyPI package; what PyPI calls apex is something else."""
    try:
        found = importlib.util.find_spec("apex")
    except (ImportError, ValueError):
        found = None
    if found is None:
        return "not installed (optional)"
    folders = [Path(place) for place in found.submodule_search_locations or ()]
    if any((folder / "contrib").is_dir() and (folder / "normalization").is_dir() for folder in folders):
        return "NVIDIA's"
    return "a package called apex is installed, but it is not NVIDIA's; it is not used"
