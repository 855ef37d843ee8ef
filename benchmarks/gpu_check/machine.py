"""What the figures were measured on: GPU, driver, clocks, versions. Reads only; the card is measured as it is found."""

import importlib.metadata
import platform
import subprocess
from typing import Any

import torch
import triton

_PACKAGES = ("torch", "triton", "numpy", "av", "nvidia-dali-cuda120", "nvidia-dali-cuda130")
_STATE = (
    *("pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "power.limit", "temperature.gpu"),
)
_THROTTLE = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # newer and older drivers


def facts(command: str) -> dict[str, Any]:
    """GPU, versions and the command that was given."""
    found: dict[str, Any] = {"command": command, "gpu": gpu_name(), "python": platform.python_version()}
    found |= {"cpu": _cpu_model(), "driver": (_smi("driver_version") or ["unknown"])[0], "cuda": torch.version.cuda}
    found |= {"cudnn": torch.backends.cudnn.version(), "torch": torch.__version__, "triton": triton.__version__}
    for name in _PACKAGES:
        if name not in found and (version := _version(name)):
            found[name] = version
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": getattr(properties, "L2_cache_size", 0) // 2**20,
            "capability": f"sm_{properties.major}{properties.minor}",
        }
    return found


def gpu_name() -> str:
    """As the driver calls it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def state() -> dict[str, str]:
    """Clocks, power and temperature now, with their units; empty without nvidia-smi."""
    found = dict(zip(_STATE, _smi(",".join(_STATE)) or (), strict=False))
    reasons = next((answer[0] for name in _THROTTLE if found and (answer := _smi(name))), None)
    return found | ({"throttled by": reasons} if reasons else {})


def _smi(query: str) -> list[str] | None:
    """nvidia-smi's answer for the first GPU; None where there is none."""
    words = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return [cell.strip() for cell in lines[0].split(",")] if done.returncode == 0 and lines else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
