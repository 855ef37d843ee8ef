"""Two ranks of torchrun train and validate like one process with the whole batches, in double precision."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "rank_script.py"


@pytest.fixture(scope="module")
def found(numbered, tmp_path_factory) -> dict[int, dict]:
    """By the number of ranks, what the script has found."""
    folder, results = tmp_path_factory.mktemp("ranks"), {}
    for world in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(world)] if world > 1 else []
        videos = shutil.copytree(numbered, folder / f"videos{world}")
        words = [str(SCRIPT), str(videos), str(folder / f"cache{world}"), str(folder / f"{world}.pt")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *launcher, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        results[world] = torch.load(folder / f"{world}.pt")
    return results


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in ours)


@pytest.mark.parametrize("case", ["merged", "mixed", "raw"])
def test_two_ranks_are_one_process_up_to_the_order_of_sums(found, case):
    """Accumulation, frozen BatchNorm, an odd number of validation videos; batches mixed with the plan's partners."""
    one, two = found[1][case], found[2][case]
    for part in ("network", "average"):
        assert furthest(one[part], two[part]) < 1e-9, part
    for alone, together in zip(one["stats"], two["stats"], strict=True):
        assert (together["clips"], together["clip_frames"]) == (alone["clips"], alone["clip_frames"]) == (16, 128)
        for name in ("loss", "norm"):
            assert together[name] == pytest.approx(alone[name], rel=1e-6), f"{name}, summed in fp32"
    for alone, together in zip(one["evaluations"], two["evaluations"], strict=True):
        assert alone["videos"] == 5
        assert together == pytest.approx(alone, rel=1e-6)


def test_statistics_of_each_rank_s_own_train_another_network(found):
    one, two = found[1]["apart"], found[2]["apart"]
    assert furthest(one["network"], found[1]["merged"]["network"]) == 0.0, "for one process the setting means nothing"
    assert furthest(one["network"], two["network"]) > 1e-4
    assert two["stats"][0]["loss"] == pytest.approx(one["stats"][0]["loss"], rel=0.1)


def test_all_ranks_end_with_the_same_weights_and_statistics(found):
    for case in ("merged", "mixed", "raw", "apart", "dropped"):
        first, second = found[2][case]["sums"]
        assert first == second, case


def test_ranks_drop_other_units_and_the_first_those_of_one_process(found):
    first, second = found[2]["dropped"]["seeds"]
    assert [first] == found[1]["dropped"]["seeds"] and second != first
    assert furthest(found[1]["dropped"]["network"], found[2]["dropped"]["network"]) > 1e-4


def test_weights_that_part_are_found_out(found):
    assert found[1]["parted"] == "" and "the weights of the ranks have parted" in found[2]["parted"]


def test_a_clip_that_one_rank_cannot_read_is_known_to_all(found):
    alone, first, second = (json.loads(said) for said in (*found[1]["lost"], *found[2]["lost"]))
    assert first == second == alone and [place for *_, place in alone] == [1]


def test_every_rank_is_heard(found):
    assert found[1]["said"] == [""] and found[2]["said"] == ["", "é"]
