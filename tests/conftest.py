"""Shared fixtures: real clips where they are present, and a small set of videos whose frames carry their own number."""

import os
from pathlib import Path

import pytest
import torch

from numbered_videos import write_numbered
from whole_runs import finish_here, fresh


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` need a CUDA GPU; where FASTPLAN_REQUIRE_GPU=1 promises one, its absence is a failure."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("FASTPLAN_REQUIRE_GPU") == "1":
            pytest.fail("FASTPLAN_REQUIRE_GPU=1, but PyTorch finds no CUDA GPU", pytrace=False)
        pytest.skip("no CUDA GPU (FASTPLAN_REQUIRE_GPU=1 makes this a failure)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes begin first, so that processes that share the files end together."""
    long = ["interpreter", "aot", "parallel", "resume", "ranks_run", "gpu_check", "compile_trace", "race_run"]
    long = [f"test_{name}.py" for name in [*long, "loader_bench", "schedules", "crashes"]]
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips beside the checkout (FASTPLAN_SHARED names another); skips where it is absent."""
    folder = Path(os.environ.get("FASTPLAN_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "videos" / "manifest.csv").exists():
        pytest.skip(f"no real clips at {folder}: set FASTPLAN_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three numbered videos, 30 to 200 frames long."""
    root = tmp_path_factory.mktemp("numbered")
    for number, frames in enumerate((30, 64, 200, 41, 97, 128)):
        write_numbered(root / f"class{number % 2}" / f"v{number}_{frames}.mp4", frames)
    return root


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A serial search of the tiny graph that was never stopped."""
    run = tmp_path_factory.mktemp("reference") / "run"
    finish_here(fresh(run))
    return run
