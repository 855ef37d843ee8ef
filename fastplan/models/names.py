"""How the tensors of a network are called in its authors' checkpoints.

The names of torchvision's ResNet carry over, and so those of the DG-P3D authors, who kept them: `conv2_t` is the
temporal convolution beside `conv2`, `fc1` and `fc2` are the global context, `fc1` to `fc6` the global path of LGD, and
`layer4_dual` and `fc_dual` belong to the second head. A deep stem is conv1 to conv3 there, conv1.0 to conv1.6 in timm.
"""

import re

from fastplan.models.dg_p3d import DGP3D
from fastplan.models.interface import VideoNetwork
from fastplan.models.pathway import PathwayNetwork
from fastplan.models.resnets import ResNet

_DEEP_STEM = {"stem": "conv1", "deep.0": "bn1", "deep.2": "conv2", "deep.3": "bn2", "deep.5": "conv3", "bn": "bn3"}
_STEM = {"stem": "conv1", "bn": "bn1"}
_TIMM_STEM = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3"}
_DIFFUSION = {"from_local": 1, "from_global": 3, "to_local": 5}
_BLOCK_RULES = (
    (r"\.(conv\d)\.s\.", r".\1."),
    (r"\.(conv\d)\.t\.", r".\1_t."),
    (r"\.conv(\d)\.bn\.", r".bn\1."),
    (r"\.(conv\d)\.conv\.", r".\1."),
    (r"\.context\.", "."),
)


def published_name(network: VideoNetwork, name: str) -> str | None:
    """The published name of a tensor of the network; None where its family has none."""
    if isinstance(network, PathwayNetwork):
        if name.startswith("path.conv."):
            return name.replace("path.conv.", "conv1.")
        return name.replace("path.bn.", "bn1.").removeprefix("path.")
    if not isinstance(network, (DGP3D, ResNet)):
        return None
    if found := re.match(r"diffusion\.(\d+)\.(\w+)\.([01])\.(.*)", name):
        place = _block_name(network, int(found[1]))
        return f"{place}.fc{_DIFFUSION[found[2]] + int(found[3])}.{found[4]}"
    stem = _DEEP_STEM if isinstance(network, DGP3D) and network.spec.deep_stem else _STEM
    module, _, leaf = name.rpartition(".")
    if module in stem:
        return f"{stem[module]}.{leaf}"
    for pattern, replacement in _BLOCK_RULES:
        name = re.sub(pattern, replacement, name)
    return name.replace("fc_global.", "fc_g.")


def without_timm_stem(names: list[str]) -> dict[str, str]:
    """timm's names of a deep stem, and what they are called here; empty where the file has none."""
    if "conv1.0.weight" not in names:
        return {}
    renamed = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        if module in _TIMM_STEM:
            renamed[name] = f"{_TIMM_STEM[module]}.{leaf}"
        elif module == "bn1":
            renamed[name] = f"bn3.{leaf}"
    return renamed


def _block_name(network: VideoNetwork, index: int) -> str:
    """layerN.M of the index-th block of the network."""
    for number in range(1, 5):
        count = len(getattr(network, f"layer{number}"))
        if index < count:
            return f"layer{number}.{index}"
        index -= count
    raise AssertionError("more blocks than layers hold")
