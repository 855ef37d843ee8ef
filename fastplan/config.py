"""The run configuration: typed, checked, layered, saved.

Layers, later ones win: the defaults below and in configs/default.yaml, the state graph's own `config`, a file given
with --config, flags, and `key.sub=value` words. An unknown key is an error that names the nearest one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fastplan.budget import Budget
from fastplan.errors import UserError, nearest

Positive = Annotated[int, Field(ge=1)]
_MAY_CHANGE = ("plan.budget",)  # between a run and its resumption
_OF_STATES = ("lr", "batch_size", "accumulate", "segments", "frames", "stride", "size", "freeze_bn")
Fraction = Annotated[float, Field(ge=0, le=1)]


def _checked_budget(text: str) -> str:
    try:
        Budget.parse(text)
    except UserError as error:
        raise ValueError(str(error)) from None
    return text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Span = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class AugmentConfig(_Section):
    """Augmentation in training, the same for all frames of a clip; what has probability 0 costs nothing.

    scale, ratio: area (fraction) and aspect ratio of the random crop. flip: probability of mirroring. jitter:
    probability of a colour change; brightness, contrast, saturation: its strength, a factor in 1 +- strength; hue: its
    strength as a fraction of the circle. grey: probability of losing colour. blur: probability of a Gaussian whose
    sigma, in pixels of the network's picture, is uniform in blur_sigma. rand_augment: probability of RandAugment:
    rand_augment_steps random operators of strength rand_augment_magnitude (of 30). erase: probability of painting
    over a random box of area erase_scale (fractions) and aspect ratio erase_ratio. mixup, cutmix: probability that a
    batch is mixed in this way, never in both; the alphas are those of the beta distributions of the shares. mean, std:
    of the RGB values in 0..1, ImageNet's by default.
    """

    scale: Span = (0.2, 1.0)
    ratio: Span = (0.75, 4 / 3)
    flip: Fraction = 0.5
    jitter: Fraction = 0.8
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Fraction = 0.2
    blur: Fraction = 0.5
    blur_sigma: Span = (0.1, 2.0)
    rand_augment: Fraction = 0.0
    rand_augment_steps: Positive = 2
    rand_augment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    erase: Fraction = 0.0
    erase_scale: Span = (0.02, 0.33)
    erase_ratio: Span = (0.3, 3.3)
    mixup: Fraction = 0.0
    mixup_alpha: Annotated[float, Field(gt=0)] = 0.8
    cutmix: Fraction = 0.0
    cutmix_alpha: Annotated[float, Field(gt=0)] = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        for name in ("scale", "ratio", "blur_sigma", "erase_scale", "erase_ratio"):
            low, high = getattr(self, name)
            most = 1.0 if name.endswith("scale") else float("inf")
            if not low <= high <= most:
                kind = "positive numbers" if most > 1 else "fractions"
                raise ValueError(f"{name} {[low, high]} must be two {kind}, the smaller first")
        if self.mixup + self.cutmix > 1:
            raise ValueError(f"mixup {self.mixup} and cutmix {self.cutmix} exclude each other: at most 1 together")
        if min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)} must be positive")
        return self


class DataConfig(_Section):
    """Where clips come from.

    train, val, test: a folder per class or a list file; without `train`, the embedded task. Without `val`,
    `plan.holdout` is carved from train; without `test`, `holdout_test` (a fraction, 0 for none) is.
    embedded: which embedded task. group_pattern: regular expression on the path below the data's folder; videos whose
    first match group is equal are never parted by a split. format: of the lists, null tells it by their content.
    picture_pattern, picture_first: how the files of videos are named that are folders of pictures, and the number of
    the first. probe_limit_s: seconds after which a file that is being probed is given up as bad. short: what a video
    shorter than the clip does.
    max_bad_fraction: of the videos of a split that may be bad, left out when probed or lost in the run, before the run
    stops. decode_timeout_s: seconds after which a video that is being read counts as bad, null for none.
    clips_per_epoch: clips in an epoch, null for one per video. threads: of the decoder, null for one per core.
    decoder: `auto` is, on a GPU, DALI (NVDEC) for the videos that it takes and the host decoder for the others, without
    one the host decoder for all; `dali` is DALI on the CPU too, where it takes a video; `host` is the host decoder.
    drop_nonref: leave pictures to which no other refers, and that no clip shows, out of what DALI is given.
    keep_mb: memory for decoded clips that come again unchanged, epoch after epoch (validation, BatchNorm estimation).
    cache: folder for the index and the embedded task, null for the user's cache folder.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None
    embedded: Literal["default", "tiny"] = "default"
    group_pattern: str | None = None
    format: Literal["paths", "table", "kinetics", "ucf101", "hmdb51", "something-v2", "activitynet"] | None = None
    picture_pattern: str = "img_{:05d}.jpg"
    picture_first: Annotated[int, Field(ge=0)] = 1
    probe_limit_s: Annotated[float, Field(gt=0)] = 300.0
    holdout_test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    short: Literal["loop", "repeat_last", "error"] = "loop"
    max_bad_fraction: Fraction = 0.1
    decode_timeout_s: Annotated[float, Field(gt=0)] | None = 120.0
    clips_per_epoch: Positive | None = None
    threads: Positive | None = None
    decoder: Literal["auto", "host", "dali"] = "auto"
    drop_nonref: bool = False
    keep_mb: Annotated[int, Field(ge=0)] = 512
    cache: str | None = None
    augment: AugmentConfig = AugmentConfig()


class NetworkConfig(_Section):
    """Which network. name: see `fastplan networks`. dropout: before the classifiers.

    pretrained: file of weights to start from instead of random ones: an ImageNet ResNet (inflated), a checkpoint of the
    DG-P3D authors' code, or the network.pt of a run.
    """

    name: str = "dg_p3d_50"
    pretrained: str | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class OptimConfig(_Section):
    """SGD. clip_grad_norm: largest gradient norm, null for no clipping. classifier_lr_scale: factor on the learning
    rate of the classifiers."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = 40.0
    classifier_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TrainConfig(_Section):
    """How epochs are trained.

    precision: `auto` is bf16 on a GPU that has it, else fp16 with a loss scaler; on the CPU fp32. threads: of PyTorch
    on the CPU, null for PyTorch's choice. average_epochs: window of the averaged weights that are validated and kept;
    0 validates the raw weights. bn_clips: training clips on which the BatchNorm statistics of the averaged weights are
    estimated, in the target clip regime. sync_bn: under torchrun, normalise with the statistics of all ranks' clips;
    else with those of each rank's own, and go on with the mean of the running ones.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: Positive | None = None
    average_epochs: Annotated[float, Field(ge=0)] = 1.5
    bn_clips: Positive = 320
    sync_bn: bool = True


class PlanConfig(_Section):
    """How the search decides.

    knee: `tolerance`, `exponential` or `power`, or `paper` for the published rule. tolerance: accuracy given away at a
    knee, a fraction. attempt_epochs: trained past the knee in a search; replay_attempt_epochs: in a replay.
    max_epochs: cap of an edge. known_knee: level, such as 0.8, of the band around the knee that must lie behind for an
    edge to end, `attempt_epochs` or more after its beginning; null: it ends `attempt_epochs` past one fit's knee.
    val_clips: per video in the validation after each epoch; more of them steady the curve of a small validation set.
    scratch_margin: accuracy above chance before a knee is looked for in training from random weights. score: `measured`
    evaluates the kept checkpoint on `score_clips` clips per video (none of them the validation's own where val_clips
    is 1 and score_clips even); `fitted` is the paper's fitted maximum. holdout:
    fraction of the training videos that decide, where there is no validation set.

    What a search leaves out (docs/planning.md): budget: such as 40h, 200e or 3e6f; null is none. pick: `ties` takes
    the cheapest of the ways into the last state that are equal within noise, `highest` is the published rule. width:
    arrivals kept per state, null for all that no cheaper one equals. ceiling: end an edge that cannot reach
    its best sibling. skip_dominated: leave out edges from a state where another one is no dearer and better.
    first_path: trained before anything else: a list of states, or the name or file of a plan. repeats: how many times,
    at most, the ways into the last state that are within noise of the best are trained again with other seeds, so that
    their mean decides. race: of the ways into a state, all trained to the same epoch, the share that is trained on,
    one at least; null trains every way to its end. It is decided after epoch `first_rung`, then every `rung_step`
    epochs. race_start: whether ways from the start race too, compared at equal clip-frames of their
    paths once one is `scratch_margin` above random weights.
    """

    knee: Literal["tolerance", "exponential", "power", "paper"] = "tolerance"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.005
    attempt_epochs: Positive = 10
    replay_attempt_epochs: Positive = 3
    max_epochs: Positive = 100
    known_knee: Annotated[float, Field(gt=0, lt=1)] | None = None
    val_clips: Positive = 1
    scratch_margin: Fraction = 0.15
    score: Literal["measured", "fitted"] = "measured"
    score_clips: Positive = 4
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    budget: Annotated[str, AfterValidator(_checked_budget)] | None = None
    pick: Literal["ties", "highest"] = "ties"
    width: Positive | None = 1
    ceiling: bool = False
    skip_dominated: bool = False
    first_path: str | list[str] | None = None
    repeats: Annotated[int, Field(ge=0)] = 0
    race: Annotated[float, Field(ge=0, lt=1)] | None = 0.5
    race_start: bool = False
    first_rung: Positive = 2
    rung_step: Positive = 1


class TestConfig(_Section):
    """The final test. clips: per video, evenly placed. crops: squares of each clip, 1 for the centre, 3 along the
    longer side. The softmax is averaged over clips x crops views."""

    clips: Positive = 10
    crops: Literal[1, 3] = 3


class RunConfig(_Section):
    """Everything a run depends on.

    state_graph: a shipped name or a file. replay: a plan, shipped name or file, to train without a search; exact: for
    exactly its epochs instead of ending each state at its own knee. device: where to train. checkpoints: a
    folder or URL of fsspec that every worker reaches, of this run alone; null is the run folder. kernels: `auto` is
    the Triton kernels on a GPU, `off` PyTorch's operators everywhere, `reference` their definitions in PyTorch.
    """

    state_graph: str | None = None
    replay: str | None = None
    exact: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoints: str | None = None
    kernels: Literal["auto", "off", "reference"] = "auto"
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    plan: PlanConfig = PlanConfig()
    test: TestConfig = TestConfig()

    @field_validator("kernels", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return "off" if value is False else value  # what YAML makes of a bare `off`

    def to_yaml(self) -> str:
        """The whole configuration, defaults included; `--config` reads it back."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=110))


def build_config(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> RunConfig:
    """Merge (where it comes from, settings) layers, later ones win, and check the result.

    Raises `UserError` naming the layer's key, what is wrong and, for an unknown key, the nearest one.
    """
    merged: dict[str, Any] = {}
    for where, layer in layers:
        _check_keys(layer, RunConfig, where, ())
        merged = _merge(merged, layer)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{key} is {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `UserError` where it cannot be read or is no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not YAML: it is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} is no configuration: it must be a mapping, such as 'seed: 1'")
    return content or {}


def parse_override(word: str) -> dict[str, Any]:
    """`key.sub=value` as nested settings, the value read as YAML. Raises `UserError` for any other form."""
    key, equals, text = word.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"'{word}' is no setting: write key.sub=value, such as plan.max_epochs=30")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"the value of '{word}' is not YAML") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def differences(saved: RunConfig, asked: RunConfig) -> list[str]:
    """Keys that differ, as 'key: saved -> asked'; an `auto` that was resolved does not, nor does the budget."""
    old, new = _flatten(saved.model_dump(mode="json")), _flatten(asked.model_dump(mode="json"))
    changed = [key for key in old if old[key] != new[key] and new[key] != "auto" and key not in _MAY_CHANGE]
    return [f"{key}: {old[key]} -> {new[key]}" for key in changed]


def replay_settings(config: RunConfig) -> dict[str, Any]:
    """What a plan file holds so that it trains again elsewhere: all but seed, device, paths and threads."""
    settings = config.model_dump(mode="json", include={"data", "network", "optim", "train", "plan", "test"})
    for key in ("train", "val", "test", "threads", "cache", "keep_mb", "decode_timeout_s", "decoder", "drop_nonref"):
        del settings["data"][key]
    for key in ("precision", "threads"):
        del settings["train"][key]
    del settings["network"]["pretrained"]
    for key in ("budget", "first_path"):
        del settings["plan"][key]
    return settings


def _check_keys(layer: Mapping[str, Any], section: type[BaseModel], where: str, above: tuple[str, ...]) -> None:
    for key, value in layer.items():
        dotted = ".".join((*above, str(key)))
        if key not in section.model_fields:
            raise UserError(f"{where}: unknown key '{dotted}'{_hint(str(key), section)}")
        inner = section.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: '{dotted}' is a section: write {dotted}.KEY, not {dotted}={value}")
            _check_keys(value, inner, where, (*above, str(key)))


def _hint(key: str, section: type[BaseModel]) -> str:
    """Where an unknown key may belong: to this section under a similar name, to another one, or to the states."""
    if key in _OF_STATES:
        return f": '{key}' belongs to each state of a state graph, so write it into a graph file (docs/states.md)"
    near = nearest(key, section.model_fields)
    homes = [name for name in _flatten(RunConfig().model_dump()) if name.rpartition(".")[2] == key]
    return f", did you mean '{homes[0]}'?" if homes and near.startswith(";") else near


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{above}{key}."))
        else:
            flat[f"{above}{key}"] = value
    return flat
