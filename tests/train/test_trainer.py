"""A state's epochs: repeatable, split by accumulation without change, and true to freezing."""

import numpy as np
import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.config import RunConfig, build_config
from fastplan.data.batch import ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import training_samples
from fastplan.errors import UserError
from fastplan.models.interface import NetworkSpec
from fastplan.models.layers import BatchNorm
from fastplan.models.networks import NETWORKS
from fastplan.models.resnets import ResNetSpec
from fastplan.models.slowfast import SlowFastSpec
from fastplan.planner.states import State
from fastplan.train.precision import Precision
from fastplan.train.trainer import Trainer, lr_factor

CPU = torch.device("cpu")
CLIP = ClipSpec(2, 4, 1, 24)
STATE = State("s", CLIP, 0.05, batch_size=3, accumulate=2)


@pytest.fixture(scope="module")
def index(numbered, tmp_path_factory):
    return build_index(read_videos(numbered), cache_dir=tmp_path_factory.mktemp("cache"), threads=2)


def trainer_of(index, target=STATE, spec: NetworkSpec = NETWORKS["dg_p3d_tiny"], **settings) -> Trainer:
    layers = {"data": {"clips_per_epoch": 12}, "train": {"bn_clips": 4}, "network": {"dropout": 0.2}}
    config: RunConfig = build_config([("test", layers), ("case", settings)])
    loader = ClipLoader(index, config.data.augment, max_batch=6, threads=2, decoder="host", device=CPU)
    torch.manual_seed(0)
    network = spec.build(2, config.network.dropout).to(memory_format=torch.channels_last_3d)
    return Trainer(
        network,
        config,
        train_loader=loader,
        val_loader=loader.beside(index),
        target=target,
        precision=Precision("fp32", CPU, "test"),
    )


def flat(weights) -> torch.Tensor:
    return torch.cat([v.flatten().double() for part in ("network", "average") for v in weights[part].values()])


def copy_of(weights):
    return {k: {n: v.clone() for n, v in p.items()} if isinstance(p, dict) else p for k, p in weights.items()}


def test_an_epoch_from_the_same_weights_is_the_same_bit_for_bit(index):
    trainer = trainer_of(index)
    trainer.enter(STATE, None)
    trainer.train_epoch("a", 1)
    weights, optimizer = copy_of(trainer.weights()), trainer.optimizer_state()
    optimizer = torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, optimizer)
    trainer.train_epoch("a", 2)
    score = trainer.validate()
    first = flat(trainer.weights())

    torch.manual_seed(999)
    np.random.seed(999)
    other = trainer_of(index)
    other.enter(STATE, weights)
    other.load_optimizer_state(optimizer)
    other.train_epoch("a", 2)
    assert other.validate() == score
    assert torch.equal(flat(other.weights()), first)


@pytest.mark.parametrize("spec", [ResNetSpec("pseudo", diffusion=True, layers=(1, 1, 1, 1)),
                                  SlowFastSpec((1, 1, 1, 1), alpha=4, lateral_taps=5)])  # fmt: skip
def test_networks_of_one_head_or_of_two_in_training_only_are_trained_alike(index, spec):
    trainer = trainer_of(index, spec=spec)
    trainer.enter(STATE, None)
    before = [layer.weight.clone() for layer in trainer.network.classifiers()]
    stats = trainer.train_epoch("a", 1)
    assert np.isfinite(stats.loss) and stats.clips == 12
    assert all(not torch.equal(a, b.weight) for a, b in zip(before, trainer.network.classifiers(), strict=True))
    assert np.isfinite(trainer.validate().loss)


def test_accumulation_does_not_change_a_step(index):
    """One step over 6 clips at once or as 3 x 2, BatchNorm frozen so that a clip's gradient is its own; no dropout."""
    found = []
    for batch_size, accumulate in ((6, 1), (2, 3)):
        trainer = trainer_of(index, data={"clips_per_epoch": 6}, network={"dropout": 0.0})
        trainer.enter(State("s", CLIP, 0.05, batch_size, accumulate, freeze_bn=True), None)
        stats = trainer.train_epoch("a", 1)
        found.append((flat(trainer.weights()), stats.loss, stats.grad_norm))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-4)


def test_a_step_is_nesterov_sgd_with_clipping(index):
    """One step against the formula: v = g + wd * w, w -= lr * (v + momentum * v), g scaled to the largest norm."""
    settings = {"data": {"clips_per_epoch": 6}, "optim": {"clip_grad_norm": 0.5, "weight_decay": 0.01}}
    trainer = trainer_of(index, **settings, network={"dropout": 0.0})
    trainer.enter(State("s", CLIP, 0.05, 6), None)
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters()}
    grads = {}
    trainer.network.fc.weight.register_hook(lambda g: grads.__setitem__("fc.weight", g.clone()))
    stats = trainer.train_epoch("a", 1)
    assert stats.grad_norm > 0.5, "the case must clip"
    g = grads["fc.weight"] * 0.5 / (stats.grad_norm + 1e-6) + 0.01 * before["fc.weight"]
    wanted = before["fc.weight"] - 0.05 * (g + 0.9 * g)
    torch.testing.assert_close(trainer.network.fc.weight.detach(), wanted, rtol=1e-5, atol=1e-7)


def test_a_frozen_state_changes_no_batch_norm_and_its_average_has_the_same(index):
    trainer = trainer_of(index)
    trainer.enter(STATE, None)
    trainer.train_epoch("a", 1)
    trainer.validate()
    frozen = State("f", CLIP, 0.05, 3, freeze_bn=True)
    trainer.enter(frozen, copy_of(trainer.weights()))

    def norms(part):
        names = [n for n, m in trainer.network.named_modules() if isinstance(m, BatchNorm)]
        keys = [f"{n}.{p}" for n in names for p in ("weight", "bias", "running_mean", "running_var")]
        return {key: trainer.weights()[part][key].clone() for key in keys}

    before, averaged, conv = norms("network"), norms("average"), trainer.network.stem.weight.clone()
    trainer.validate()
    assert all(torch.equal(value, averaged[key]) for key, value in norms("average").items()), (
        "what the state begins from"
    )
    trainer.train_epoch("b", 1)
    trainer.validate()
    for part in ("network", "average"):
        assert all(torch.equal(value, before[key]) for key, value in norms(part).items()), part
    assert not torch.equal(trainer.network.stem.weight, conv)
    trainer.enter(STATE, None)
    trainer.train_epoch("c", 1)
    assert not all(torch.equal(value, before[key]) for key, value in norms("network").items()), "thawed again"


def test_an_average_of_no_length_is_the_network_where_batch_norm_is_frozen(index):
    """What is validated would else normalise by statistics of weights that are gone."""
    trainer = trainer_of(index, train={"average_epochs": 1e-9, "bn_clips": 4})
    trainer.enter(STATE, None)
    trainer.train_epoch("a", 1)
    trainer.validate()
    trainer.enter(State("f", CLIP, 0.05, 3, freeze_bn=True), None)
    trainer.train_epoch("b", 1)
    clips_NCTHW = torch.randn(2, 3, CLIP.length, CLIP.size, CLIP.size)
    with torch.no_grad():
        kept, own = trainer.kept_network()(clips_NCTHW), trainer.network.eval()(clips_NCTHW)
    for ours, wanted in zip(kept, own, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_the_averaged_network_is_what_is_validated(index):
    trainer = trainer_of(index)
    trainer.enter(STATE, None)
    trainer.train_epoch("a", 1)
    kept = trainer.kept_network()
    assert kept is not trainer.network and trainer.weights()["updates"] == 2
    raw = trainer_of(index, train={"average_epochs": 0, "bn_clips": 4})
    assert raw.kept_network() is raw.network


def test_mixed_clips_are_trained_on_both_of_their_labels(index):
    """The loss of a step is that of the mixed clips against their shares, smoothing included, and repeats itself."""
    augment = {"mixup": 0.5, "cutmix": 0.5, "erase": 0.5}
    settings = {"data": {"clips_per_epoch": 6, "augment": augment}, "optim": {"label_smoothing": 0.1}}
    trainer = trainer_of(index, **settings, network={"dropout": 0.0})
    trainer.enter(State("s", CLIP, 0.05, 6, freeze_bn=True), None)
    weights = copy_of(trainer.weights())
    samples = training_samples(index, CLIP, trainer._config.data.augment, seed=0, stream="a", epoch=0, clips=6)
    trainer._train_loader.configure(CLIP, 6)
    batch = next(trainer._train_loader.epoch(samples))
    assert 0 < batch.share < 1
    own = torch.eye(2)[batch.labels_N]
    wanted = 0.9 * (batch.share * own + (1 - batch.share) * own.flip(0)) + 0.1 / 2
    with torch.no_grad():
        heads = trainer.network.train()(batch.clips_NCTHW)
        loss = sum(-(wanted * head.log_softmax(1)).sum(1).mean() for head in heads)
    first = trainer.train_epoch("a", 1).loss
    assert first == pytest.approx(float(loss), rel=1e-5)
    trainer.enter(State("s", CLIP, 0.05, 6, freeze_bn=True), weights)
    assert trainer.train_epoch("a", 1).loss == first


def test_a_short_cycle_changes_side_and_batch_with_every_step(index, monkeypatch):
    """Half the side with 4 times the batch, 0.7 of it with twice, then the whole: round and round, no clip twice."""
    state = State("s", CLIP, 0.05, batch_size=1, short_cycle=True)
    trainer = trainer_of(index, state)
    seen = []
    monkeypatch.setattr(type(trainer.network), "forward", _noting(type(trainer.network).forward, seen))
    trainer.enter(state, None)
    stats = trainer.train_epoch("a", 1)
    assert seen == [(4, 12), (2, 16), (1, 24), (4, 12)], "13 of 12 clips would be one step more"
    assert (stats.clips, stats.clip_frames) == (11, 11 * CLIP.length)
    again = trainer_of(index, state)
    again.enter(state, None)
    again.train_epoch("a", 1)
    assert torch.equal(flat(again.weights()), flat(trainer.weights()))


def _noting(forward, seen):
    def noted(self, clips_NCTHW):
        if self.training:
            seen.append((len(clips_NCTHW), clips_NCTHW.shape[-1]))
        return forward(self, clips_NCTHW)

    return noted


def test_an_epoch_without_a_full_step_is_an_error(index):
    trainer = trainer_of(index, data={"clips_per_epoch": 5})
    trainer.enter(STATE, None)
    with pytest.raises(UserError, match=r"state 's' takes 6 clips a step .* epoch has only 5"):
        trainer.train_epoch("a", 1)


def test_a_loss_that_is_not_finite_ends_the_epoch(index):
    trainer = trainer_of(index, optim={"clip_grad_norm": None})
    trainer.enter(State("s", CLIP, 1e30, 3), None)
    stats = trainer.train_epoch("a", 1)
    assert np.isnan(stats.loss)


def test_the_cosine_schedule():
    assert lr_factor(1, warmup=2, cosine=10)(0.5) == pytest.approx(0.25, abs=1e-3)
    assert lr_factor(3, warmup=2, cosine=10)(0.0) == pytest.approx(1.0)
    assert lr_factor(6, warmup=2, cosine=10)(1.0) == pytest.approx(0.5)
    assert lr_factor(10, warmup=2, cosine=10)(1.0) == pytest.approx(0.0)


def test_a_constant_rate_after_a_warm_up():
    assert lr_factor(2, warmup=4, cosine=None)(0.0) == pytest.approx(0.25, abs=1e-3)
    assert lr_factor(5, warmup=4, cosine=None)(0.7) == 1.0


def test_the_rate_is_the_state_s_own_again_after_a_warm_up(index):
    trainer = trainer_of(index, optim={"classifier_lr_scale": 10.0})
    trainer.enter(STATE, None)
    trainer.train_epoch("a", 1, lr_scale=lr_factor(1, warmup=1, cosine=None))
    trainer.train_epoch("a", 2)
    assert [group["lr"] for group in trainer._optimizer.param_groups] == [STATE.lr, 10 * STATE.lr]


def test_classifiers_can_learn_faster(index):
    trainer = trainer_of(index, optim={"classifier_lr_scale": 10.0})
    trainer.enter(STATE, None)
    assert [group["lr"] for group in trainer._optimizer.param_groups] == pytest.approx([0.05, 0.5])
