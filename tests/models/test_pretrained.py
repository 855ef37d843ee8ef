"""Weights from files: inflation against a ResNet for pictures that is written here, the authors' names, own files."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fastplan.errors import UserError
from fastplan.models.blocks import Basic, Bottleneck
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.names import published_name
from fastplan.models.networks import build_network
from fastplan.models.pathway import FAST_TAPS, PathwaySpec
from fastplan.models.pretrained import load_pretrained
from fastplan.models.resnets import ResNetSpec
from fastplan.models.slowfast import SlowFastSpec

LAYERS = (1, 2, 1, 3)  # blocks of all three kinds in layer 4


def image_resnet(layers=LAYERS, *, basic=False, groups=1, width=64, deep=False) -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names, under timm's for a deep stem."""
    generator = torch.Generator().manual_seed(1)
    weights: dict[str, torch.Tensor] = {}

    def conv(name, outputs, inputs, kernel):
        fan = inputs * kernel * kernel
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * fan**-0.5

    def norm(name, channels):
        for leaf, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            weights[f"{name}.{leaf}"] = low + torch.rand(channels, generator=generator)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    if deep:
        for index, (outputs, inputs) in zip((0, 3, 6), ((64, 3), (64, 64), (128, 64)), strict=True):
            conv(f"conv1.{index}", outputs, inputs, 3)
        norm("conv1.1", 64)
        norm("conv1.4", 64)
    else:
        conv("conv1", 64, 3, 7)
    inputs = 128 if deep else 64
    norm("bn1", inputs)
    for number, count in enumerate(layers, 1):
        planes = 64 * 2 ** (number - 1)
        inner, outputs = planes * width // 64 * groups, planes * (1 if basic else 4)
        for block in range(count):
            place = f"layer{number}.{block}"
            convs = [(planes, inputs, 3), (planes, planes, 3)]
            if not basic:
                convs = [(inner, inputs, 1), (inner, inner // groups, 3), (outputs, inner, 1)]
            for index, shape in enumerate(convs, 1):
                conv(f"{place}.conv{index}", *shape)
                norm(f"{place}.bn{index}", shape[0])
            if block == 0 and (number > 1 or inputs != outputs):
                conv(f"{place}.downsample.0", outputs, inputs, 1)
                norm(f"{place}.downsample.1", outputs)
            inputs = outputs
    weights["fc.weight"], weights["fc.bias"] = torch.randn(1000, inputs), torch.randn(1000)
    return weights


def image_features(weights, picture, *, groups=1, last_stride=2, eps=1e-5) -> torch.Tensor:
    """Features after layer 4 of the ResNet of these weights: the reference, in functions only."""

    def conv(name, x, stride=1, groups=1):
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)

    def norm(name, x):
        statistics = (weights[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics, eps=eps)

    if "conv1.0.weight" in weights:
        x = F.relu(norm("conv1.1", conv("conv1.0", picture, 2)))
        x = conv("conv1.6", F.relu(norm("conv1.4", conv("conv1.3", x))))
    else:
        x = conv("conv1", picture, 2)
    x = F.max_pool2d(F.relu(norm("bn1", x)), 3, 2, 1)
    for number in range(1, 5):
        for block in range(99):
            place = f"layer{number}.{block}"
            if f"{place}.conv1.weight" not in weights:
                break
            stride = 1 if number == 1 or block else last_stride if number == 4 else 2
            basic = f"{place}.conv3.weight" not in weights
            y = F.relu(norm(f"{place}.bn1", conv(f"{place}.conv1", x, stride if basic else 1)))
            y = norm(f"{place}.bn2", conv(f"{place}.conv2", y, 1 if basic else stride, groups))
            if not basic:
                y = norm(f"{place}.bn3", conv(f"{place}.conv3", F.relu(y)))
            if f"{place}.downsample.0.weight" in weights:
                x = norm(f"{place}.downsample.1", conv(f"{place}.downsample.0", x, stride))
            x = F.relu(y + x)
    return x


def video_features(network, clips, *layers: str) -> list[torch.Tensor]:
    """What the named layers give, for a forward pass in evaluation mode."""
    seen = {}
    for layer in layers:
        last = network.get_submodule(layer)[-1]
        last.register_forward_hook(lambda m, i, y, layer=layer: seen.__setitem__(layer, y))
    with torch.no_grad():
        network.eval()(clips)
    return [seen[layer] for layer in layers]


def still(frames=16, size=64) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture, and the clip that repeats it."""
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    return picture, picture[:, :, None].expand(-1, -1, frames, -1, -1)


def saved(tmp_path, weights):
    torch.save(weights, tmp_path / "image.pth")
    return tmp_path / "image.pth"


VARIANTS = {
    "bottleneck": (DGP3DSpec(Bottleneck, LAYERS), {}),
    "basic": (DGP3DSpec(Basic, LAYERS), {"basic": True}),
    "resnext": (DGP3DSpec(Bottleneck, LAYERS, groups=4, width_per_group=16), {"groups": 4, "width": 16}),
    "wide": (DGP3DSpec(Bottleneck, LAYERS, width_per_group=128), {"width": 128}),
    "deep": (DGP3DSpec(Bottleneck, LAYERS, stem_kernel=3, deep_stem=True, bn_eps=2e-5), {"deep": True}),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_an_inflated_dg_p3d_sees_a_still_video_as_the_picture(tmp_path, variant):
    """Both heads: layer 4 strides space in the first one, its copy does not in the second."""
    spec, shape = VARIANTS[variant]
    weights = image_resnet(**shape)
    network = spec.build(5, 0.5)
    report = load_pretrained(network, saved(tmp_path, weights), name=variant, classes=["a"] * 5)
    picture, clip = still()
    halved, kept = video_features(network, clip, "layer4", "layer4_dual")
    assert halved.shape[2] == 4 and kept.shape[2] == 1
    groups, eps = shape.get("groups", 1), spec.bn_eps
    for found, stride in ((halved, 2), (kept, 1)):
        wanted = image_features(weights, picture, groups=groups, last_stride=stride, eps=eps)
        wanted = wanted[:, :, None].expand_as(found)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        assert wanted.std() > 0.1
    assert set(report.left_out) == {"fc.weight", "fc.bias"}
    assert all(".context." in name or name.startswith("fc") for name in report.new)
    blocks = sum(LAYERS) + LAYERS[3]
    assert f"new: global context ({4 * blocks} tensors), classifiers (4 tensors)" in str(report)
    convs = sum(".t.weight" in name for name in network.state_dict())
    assert len(report.made) == convs > 0
    everything = {name for name in network.state_dict() if "num_batches" not in name}
    assert everything == {*report.loaded, *report.made, *report.new}


@pytest.mark.parametrize("spec", [ResNetSpec("pseudo", layers=LAYERS), ResNetSpec("factored", layers=LAYERS),
                                  ResNetSpec("pseudo", diffusion=True, layers=LAYERS)])  # fmt: skip
def test_the_other_decomposed_networks_do_too(tmp_path, spec):
    weights = image_resnet()
    network = spec.build(5, 0.5)
    report = load_pretrained(network, saved(tmp_path, weights), name="net", classes=["a"] * 5)
    picture, clip = still()
    (found,) = video_features(network, clip, "layer4")
    wanted = image_features(weights, picture)[:, :, None].expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert report.kind == "an ImageNet ResNet" and "temporal kernels" in str(report)


def test_the_filters_that_r2plus1d_adds_can_learn(tmp_path):
    """They are drawn, and the temporal kernel that ignores them at first gets a gradient."""
    network = ResNetSpec("factored", layers=(1, 1, 1, 1)).build(3, 0.0)
    load_pretrained(network, saved(tmp_path, image_resnet((1, 1, 1, 1))), name="net", classes=["a"] * 3)
    pair = network.layer2[0].conv2
    F.cross_entropy(network(torch.randn(2, 3, 8, 32, 32))[0], torch.tensor([0, 1])).backward()
    first = (9 * 128 // 4 - 128) // 2
    assert not pair.t.weight[:, :first].any() and pair.t.weight.grad[:, :first].any()
    assert pair.s.weight[:first].any()


@pytest.mark.parametrize(("spec", "frames"), [
    (ResNetSpec("full", layers=(1, 1, 1, 1)), 4 * 9),
    (PathwaySpec((1, 1, 1, 1), FAST_TAPS, 5), 13),
])  # fmt: skip
def test_i3d_does_in_the_middle_of_the_clip(tmp_path, spec, frames):
    """Its kernels are means over time: only positions that the zeros beyond the ends do not reach are the picture's."""
    weights = image_resnet((1, 1, 1, 1))
    network = spec.build(5, 0.5)
    load_pretrained(network, saved(tmp_path, weights), name="net", classes=["a"] * 5)
    picture, clip = still(frames, 32)
    (found,) = video_features(network, clip, "layer4" if isinstance(spec, ResNetSpec) else "path.layer4")
    wanted = image_features(weights, picture)
    middle = found[:, :, found.shape[2] // 2]
    torch.testing.assert_close(middle, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(found[:, :, 0], wanted, rtol=1e-2)


def authors_state(network) -> dict[str, torch.Tensor]:
    """The weights of a network under its authors' names, as parallel training saves them."""
    return {f"module.{published_name(network, name)}": value for name, value in network.state_dict().items()}


@pytest.mark.parametrize("spec", [
    DGP3DSpec(Bottleneck, LAYERS),
    VARIANTS["deep"][0],
    ResNetSpec("pseudo", diffusion=True, layers=LAYERS),
    ResNetSpec("factored", layers=(1, 1, 1, 1)),
    ResNetSpec("full", layers=(1, 1, 1, 1)),
])  # fmt: skip
def test_checkpoints_of_the_authors_code_load_whole(tmp_path, spec):
    torch.manual_seed(3)
    theirs, ours = spec.build(4, 0.5), spec.build(4, 0.5)
    file = tmp_path / "current.pth"
    torch.save({"opt": {"lr": [0.1]}, "model": authors_state(theirs), "optimizer": {"state": {}}, "epoch": 3}, file)
    report = load_pretrained(ours, file, name="net", classes=["a", "b", "c", "d"])
    assert report.kind == "a checkpoint of the DG-P3D authors' code"
    assert all(key.startswith("fc") for key in report.new) and report.made == ()
    for (key, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b) == (key in report.loaded) or not a.any(), key


# Written down from the authors' model/dg_p3d_resnet.py: the tensors of two blocks and the heads of dg_p3d_resnet50.
AUTHORS_NAMES = {
    "bn1.running_var", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.0.bn2.bias", "layer1.0.conv3.weight",
    "layer1.0.bn3.weight", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.running_mean", "layer1.0.fc1.bias",
    "layer1.0.fc2.weight", "layer1.0.fc2.bias", "layer4_dual.2.fc2.bias", "layer4.2.fc2.bias", "fc.weight", "fc.bias",
}  # fmt: skip
AUTHORS_SHAPES = {
    "conv1.weight": (64, 3, 4, 7, 7),
    "layer1.0.conv2_t.weight": (64, 64, 3, 1, 1),
    "layer1.0.fc1.weight": (16, 256),
    "layer4_dual.2.conv2_t.weight": (512, 512, 3, 1, 1),
    "fc_dual.weight": (400, 2048),
}


def test_names_and_shapes_are_those_of_the_authors_code():
    with torch.device("meta"):
        network = build_network("dg_p3d_50", 400)
    shapes = {published_name(network, key): tuple(value.shape) for key, value in network.state_dict().items()}
    assert set(shapes) >= AUTHORS_NAMES
    assert {key: shapes[key] for key in AUTHORS_SHAPES} == AUTHORS_SHAPES
    with torch.device("meta"):
        network = build_network("dg_p3d_103", 400)
    names = {published_name(network, key) for key in network.state_dict()}
    assert {"conv2.weight", "bn2.weight", "conv3.weight", "bn3.running_mean"} <= names


def test_own_networks_load_and_keep_the_classifier_of_the_same_classes(tmp_path):
    file = tmp_path / "network.pt"
    theirs = build_network("dg_p3d_tiny", 2)
    torch.save({"name": "dg_p3d_tiny", "classes": ["run", "walk"], "weights": theirs.state_dict()}, file)
    same, other = build_network("dg_p3d_tiny", 2), build_network("dg_p3d_tiny", 2)
    report = load_pretrained(same, file, name="dg_p3d_tiny", classes=["run", "walk"])
    assert report.new == () and "nothing new" in str(report)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), theirs.parameters(), strict=True))
    report = load_pretrained(other, file, name="dg_p3d_tiny", classes=["walk", "run"])
    assert set(report.new) == {"fc.weight", "fc.bias", "fc_dual.weight", "fc_dual.bias"}
    assert not torch.equal(other.fc.weight, theirs.fc.weight) and torch.equal(other.stem.weight, theirs.stem.weight)


def test_safetensors_and_half_precision(tmp_path):
    weights = {name: value.half() for name, value in image_resnet().items() if value.ndim}
    save_file(weights, tmp_path / "model.safetensors")
    network = DGP3DSpec(Bottleneck, LAYERS).build(3, 0.5)
    load_pretrained(network, tmp_path / "model.safetensors", name="net", classes=["a"] * 3)
    assert torch.equal(
        network.layer3[0].conv3.weight[..., 0, 0, 0], weights["layer3.0.conv3.weight"][..., 0, 0].float()
    )


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    file = tmp_path / "image.pth"

    def refuse(content, spec=DGP3DSpec(Basic, (1, 1, 1, 1)), match=""):  # noqa: B008
        torch.save(content, file)
        network = spec.build(3, 0.5)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(UserError, match=match):
            load_pretrained(network, file, name="net", classes=["a"] * 3)
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())

    resnet = image_resnet((1, 1, 1, 1), basic=True)
    other = {name: value for name, value in resnet.items() if not name.startswith("layer3.0.")}
    refuse(other, match="but not one for net: 15 of its tensors find no partner .*layer3.0.conv1.s.weight")
    refuse(resnet | {"layer1.0.se.weight": torch.zeros(3)}, match="1 of the file are not used .layer1.0.se.weight")
    refuse(resnet | {"layer2.0.conv2.weight": torch.zeros(64, 64, 3, 3)}, match="layer2.0.conv2.s.weight")
    refuse(resnet | {"layer2.0.bn2.bias": torch.full((128,), float("nan"))}, match="not finite, in 'layer2.0.bn2.bias'")
    refuse(resnet, SlowFastSpec((1, 1, 1, 1), 4, 5), match="cannot start from; it takes the network.pt of a run only")
    refuse({"epoch": 3}, match="holds no tensors")
    refuse([1, 2], match="holds a list")
    file.write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="is no file of tensors alone"):
        load_pretrained(build_network("dg_p3d_tiny", 2), file, name="dg_p3d_tiny", classes=["a", "b"])
    with pytest.raises(UserError, match="there is no file"):
        load_pretrained(build_network("dg_p3d_tiny", 2), tmp_path / "no.pth", name="dg_p3d_tiny", classes=["a", "b"])


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("done").write_text, ("x",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="is no file of tensors alone, and code in it is not run"):
        load_pretrained(build_network("dg_p3d_tiny", 2), tmp_path / "evil.pth", name="tiny", classes=["a", "b"])
    assert not (tmp_path / "done").exists()
