"""Checkpoints in a folder and elsewhere: the same names, the same content, and only what is needed stays."""

import uuid

import pytest
import torch

from fastplan.errors import UserError
from fastplan.train.store import Store

CPU = torch.device("cpu")


@pytest.fixture(params=["folder", "memory", "url"])
def store(request, tmp_path) -> Store:
    roots = {"folder": str(tmp_path / "c"), "memory": f"memory://{uuid.uuid4()}/run", "url": f"file://{tmp_path}/c"}
    return Store(roots[request.param])


def test_what_is_saved_comes_back_and_the_rest_goes(store):
    assert store.names() == []
    edge, other = "start>c8>u16", "start>u16"
    saved = {
        store.weights_name(edge, 1): torch.randn(3),
        store.weights_name(edge, 2): torch.randn(3),
        store.optimizer_name(edge, 2): torch.randn(3),
        store.weights_name(other, 1): torch.randn(3),
        store.weights_name("start>c8", 7): torch.randn(3),
    }
    for name, tensor in saved.items():
        store.save(name, {"w": tensor})
    assert store.names() == sorted(saved)
    assert all(torch.equal(store.load(name, CPU)["w"], tensor) for name, tensor in saved.items())
    store.delete_all_but({store.weights_name(edge, 1)}, edges=[other])
    assert store.names() == ["start/c8/u16/epoch_0001.pt", "start/u16/epoch_0001.pt"]
    store.delete(store.weights_name(edge, 9))  # gone already


def test_the_folder_of_an_edge_under_way_stays(tmp_path):
    """A worker makes it just before it writes its first checkpoint there."""
    for folder in ("start/c8/u16", "start/c4", "start/u8"):
        (tmp_path / folder).mkdir(parents=True)
    Store(str(tmp_path)).delete_all_but(set(), edges=["start>c8>u16", "start>c4>u16"])
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert kept == {"start", "start/c8", "start/c8/u16", "start/c4"}


def test_a_missing_checkpoint_is_one_clear_line(store):
    with pytest.raises(UserError, match=r"epoch_0003\.pt is missing"):
        store.load(store.weights_name("start>a", 3), CPU)


def test_an_unknown_service_is_one_clear_line():
    with pytest.raises(UserError, match="cannot write nowhere://x/start/a/epoch_0001.pt"):
        Store("nowhere://x").save("start/a/epoch_0001.pt", {})


def test_a_place_is_tried_out_and_left_as_it_was(store):
    store.try_out()
    assert store.names() == []


@pytest.mark.parametrize("root", ["/proc/checkpoints", "nowhere://x", "FILE/below"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, root):
    (tmp_path / "file").touch()
    root = root.replace("FILE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=f"cannot write {root}/tried_out.pt: "):
        Store(root).try_out()
