"""How device and arithmetic are chosen."""

import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.models.networks import build_network
from fastplan.train import precision

CPU = torch.device("cpu")
CLIP = ClipSpec(2, 4, 1, 24)


@pytest.mark.parametrize(("bf16_seconds", "wanted"), [(0.5, "bf16"), (0.9, "fp32"), (2.0, "fp32")])
def test_the_cpu_takes_bf16_only_where_it_is_clearly_faster(monkeypatch, bf16_seconds, wanted):
    monkeypatch.setattr(precision, "_step_seconds", lambda p, *rest: {"fp32": 1.0, "bf16": bf16_seconds}[p.name])
    chosen = precision.choose_precision("auto", build_network("dg_p3d_tiny", 3), CLIP, 2, CPU)
    assert chosen.name == wanted and "measured" in chosen.why


def test_the_measurement_leaves_the_network_as_it_was():
    network = build_network("dg_p3d_tiny", 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = precision.choose_precision("auto", network, CLIP, 2, CPU)
    assert chosen.name in ("fp32", "bf16")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_bf16_trains_on_the_cpu():
    network = build_network("dg_p3d_tiny", 3)
    bf16 = precision.Precision("bf16", CPU, "")
    with bf16.autocast():
        heads = network(torch.randn(2, 3, 8, 24, 24))
    assert heads[0].dtype == torch.bfloat16
    assert not bf16.scaler().is_enabled()


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="train.precision is fp16, which the CPU does not train in"):
        precision.choose_precision("fp16", build_network("dg_p3d_tiny", 3), CLIP, 2, CPU)
