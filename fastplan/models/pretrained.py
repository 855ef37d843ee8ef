"""Starting from weights in a file: an ImageNet ResNet, a checkpoint of the DG-P3D authors' code, a network of fastplan.

Which one it is follows from its content. Everything must fit: a tensor of the network that finds no partner, or one of
the file that is not used, is an error that names it; only the classifiers may stay new. Files are read as tensors, no
code in them is run.
"""

import hashlib
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fastplan.errors import UserError
from fastplan.models.inflate import image_name, inflate, temporal_kernel
from fastplan.models.interface import VideoNetwork
from fastplan.models.names import published_name, without_timm_stem

_WRAPPERS = ("state_dict", "model_state", "model")
_NEW_PARTS = (
    (".context.", "global context"),
    ("diffusion.", "global path"),
    ("nonlocals.", "non-local blocks"),
    ("fc", "classifiers"),
)


@dataclass(frozen=True)
class Pretrained:
    """What a network took from a file. sha256: of the file.

    kind: what the file is. loaded: tensors that were copied or inflated. made: temporal kernels that were set to the
    identity or to zero. new: left as they were drawn. left_out: of the file, not used.
    """

    file: str
    sha256: str
    kind: str
    loaded: tuple[str, ...]
    made: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The file, for a plan's provenance."""
        return f"{self.file}, {self.kind}, sha256 {self.sha256}"

    def __str__(self) -> str:
        parts = [f"{self.file}, {self.kind}: {len(self.loaded)} tensors"]
        if self.made:
            parts.append(f"{len(self.made)} temporal kernels set to the identity or zero")
        parts.append(f"new: {_parts(self.new)}" if self.new else "nothing new")
        if self.left_out:
            parts.append(f"left out of the file: {_some(self.left_out)}")
        return "; ".join(parts)


def load_pretrained(network: VideoNetwork, file: Path, *, name: str, classes: Sequence[str]) -> Pretrained:
    """Give the network `name` the weights in `file`.

    classes: of the data, in order; classifiers are taken over where the file holds the same. Raises `UserError` where
    the file cannot be read, holds another network, or a value that is not finite.
    """
    content = _read(file)
    tensors = _tensors(content, file)
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    match = _match(network, own, content, tensors, classes)
    if not match.partners:
        raise UserError(
            f"{file} is {match.kind}, which {name} cannot start from; it takes the network.pt of a run only"
        )
    found = {}
    for key, partner in match.partners.items():
        value = tensors.get(partner)
        if match.inflated and value is not None:
            value = inflate(network, key, own[key], value)
        if value is not None and value.shape == own[key].shape and key not in match.fresh:
            found[key] = value
    missing = [key for key in own if key not in found and key not in match.made and key not in match.fresh]
    unused = sorted(set(tensors) - {match.partners[key] for key in found})
    strays = [key for key in unused if not key.startswith("fc")]
    faults = [f"{len(missing)} of its tensors find no partner of their shape ({_some(missing)})"] if missing else []
    faults += [f"{len(strays)} of the file are not used ({_some(strays)})"] if strays else []
    if faults:
        raise UserError(f"{file} is {match.kind}, but not one for {name}: {'; '.join(faults)}")
    for key, value in found.items():
        if not value.isfinite().all():
            raise UserError(f"{file} holds values that are not finite, in '{match.partners[key]}'")
    with torch.no_grad():
        for key, value in (found | match.made).items():
            own[key].copy_(value)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    fresh = tuple(key for key in own if key in match.fresh)
    return Pretrained(file.name, digest, match.kind, tuple(found), tuple(match.made), fresh, tuple(unused))


@dataclass(frozen=True)
class _Match:
    """What a file is, which tensor of it is the partner of which of the network's, and what it says nothing of."""

    kind: str
    partners: dict[str, str]
    fresh: set[str]
    made: dict[str, torch.Tensor] = field(default_factory=dict)
    inflated: bool = False


def _match(
    network: VideoNetwork,
    own: Mapping[str, torch.Tensor],
    content: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    classes: Sequence[str],
) -> _Match:
    classifiers = {id(weight) for layer in network.classifiers() for weight in layer.parameters()}
    heads = {key for key, weight in network.named_parameters() if id(weight) in classifiers}
    if "weights" in content and "classes" in content:
        same = list(content["classes"]) == list(classes)
        return _Match(f"a {content.get('name')} of fastplan", {key: key for key in own}, set() if same else heads)
    if "conv1.weight" in tensors and tensors["conv1.weight"].ndim == 5:
        partners = {key: partner for key in own if (partner := published_name(network, key))}
        return _Match("a checkpoint of the DG-P3D authors' code", partners, heads)
    partners = {key: partner for key in own if (partner := image_name(network, key))}
    made = {key: kernel for key in own if (kernel := temporal_kernel(network, key)) is not None}
    fresh = {key for key in own if key not in partners and key not in made}
    return _Match("an ImageNet ResNet", partners, fresh, made, inflated=True)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"network.pretrained: there is no file {file}") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{file} is no file of tensors alone, and code in it is not run; save a state_dict with torch.save"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read as weights: {(str(error).splitlines() or ['?'])[0][:120]}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}, not a state_dict")
    return content


def _tensors(content: Mapping[str, Any], file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, unwrapped, without counters and without the prefix of parallel training."""
    inner = content.get("weights", content)
    for wrapper in _WRAPPERS:
        if isinstance(inner, Mapping) and isinstance(inner.get(wrapper), Mapping):
            inner = inner[wrapper]
    tensors = {key.removeprefix("module."): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    if not tensors:
        raise UserError(f"{file} holds no tensors under 'state_dict' or at its top")
    renamed = without_timm_stem(list(tensors))
    return {renamed.get(key, key): value for key, value in tensors.items()}


def _parts(names: Sequence[str]) -> str:
    """The parts of a network that these tensors belong to, with how many of each."""
    of = Counter(next((what for mark, what in _NEW_PARTS if mark in name), name) for name in names)
    return ", ".join(f"{part} ({count} tensors)" for part, count in of.items())


def _some(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
