"""How device and arithmetic are chosen."""

from types import SimpleNamespace

import pytest
import torch

from fastplan.errors import UserError
from fastplan.models.networks import build_network
from fastplan.train import precision

CPU = torch.device("cpu")


def test_auto_on_the_cpu_is_fp32_whatever_is_faster():
    assert precision.choose_precision("auto", CPU).name == "fp32"
    assert precision.choose_precision("bf16", CPU).name == "bf16"


@pytest.mark.parametrize(("capability", "name"), [(7, "fp16"), (8, "bf16")])
def test_bf16_that_a_gpu_only_emulates_is_not_its_own_format(monkeypatch, capability, name):
    """Volta and Turing hold bf16 tensors, which is all that PyTorch asks by default, and compute them in fp32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert precision.choose_precision("auto", torch.device("cuda")).name == name


def test_bf16_trains_on_the_cpu():
    network = build_network("dg_p3d_tiny", 3)
    bf16 = precision.Precision("bf16", CPU, "")
    with bf16.autocast():
        heads = network(torch.randn(2, 3, 8, 24, 24))
    assert heads[0].dtype == torch.bfloat16
    assert not bf16.scaler().is_enabled()


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="train.precision is fp16, which the CPU does not train in"):
        precision.choose_precision("fp16", CPU)
