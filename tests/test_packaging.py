"""What is installed works outside the checkout, configs included."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_code_and_configs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "fastplan").rglob("*.py")}
    configs = {f"fastplan/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert sources <= names and configs <= names and len(configs) > 20
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fastplan"}


def test_metadata_names_the_requirements(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    for name in ("nvidia-dali-cuda120>=2.4", "torch>=2.11", "triton>=3.6", "scipy", "numba", "pyyaml"):
        assert f"Requires-Dist: {name}" in metadata, name
    assert "Requires-Dist: apex" not in metadata
    assert 'Requires-Dist: nvidia-dali-cuda130>=2.4; extra == "cuda13"' in metadata


def test_it_runs_from_another_folder(wheel, tmp_path):
    """The unpacked wheel alone on the path, in a folder that is no checkout."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from fastplan import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["-P", "-c", program, str(tmp_path / "site"), "plan", "--state-graph", "default"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "u16-high" in done.stdout


def test_a_bench_is_that_of_the_running_fastplan_also_in_a_checkout(tmp_path):
    """A folder `fastplan` where the command is typed is not what is measured."""
    (tmp_path / "fastplan").mkdir()
    (tmp_path / "fastplan" / "__init__.py").write_text("raise SystemExit('the fastplan of the working folder')")
    program = "import sys; sys.path[:] = sys.argv.pop(1).split('|'); from fastplan import cli; sys.exit(cli.main())"
    words = ["-c", program, "|".join([str(ROOT), *sys.path]), "bench", "bound", "--help"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "usage: fastplan bench bound" in done.stdout, done.stdout + done.stderr
