"""The disk that is foretold, against files that are really written."""

import torch

from fastplan.models.networks import build_network
from fastplan.train.disk import disk_use
from fastplan.train.store import Store


def test_the_bound_is_that_of_edges_that_keep_every_epoch_one_of_them_paused(tmp_path):
    network, store = build_network("dg_p3d_tiny", 12), Store(str(tmp_path))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    weights = {"network": network.state_dict(), "average": network.state_dict(), "updates": 1}
    other = {name: value.clone() for name, value in network.state_dict().items()}
    for name in [store.weights_name("start>a", epoch) for epoch in (1, 2, 3)] + ["start/b/epoch_0001.pt"]:
        store.save(name, {**weights, "average": other})
    for name in [store.weights_name("start>c", epoch) for epoch in (1, 2, 3)]:
        store.save(name, {**weights, "average": other})
    for name in [store.optimizer_name(*at) for at in (("start>a", 2), ("start>a", 3), ("start>c", 3))]:
        store.save(name, {"optimizer": optimizer.state_dict()})
    use = disk_use(network, epochs=3, states=1, paused=1)
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("*.pt")}
    assert 1 <= sizes["epoch_0001.pt"] / use.checkpoint < 1.2, "names and headers are small"
    assert 1 <= sum(path.stat().st_size for path in tmp_path.rglob("*.pt")) / use.most < 1.2
    assert store.free_bytes() > 0 and Store(str(tmp_path / "not" / "there")).free_bytes() > 0
    assert Store("memory://checkpoints").free_bytes() is None
