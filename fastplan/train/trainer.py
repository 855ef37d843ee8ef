"""One state at a time: epochs of SGD at a constant learning rate, validation in the target clip regime.

Everything random in an epoch is drawn from (seed, stream, epoch), so an epoch repeated from the same weights gives
the same weights again, bit for bit on the CPU. Of several ranks each takes its part of every batch; losses, gradients
and statistics are means over all of them, so that their number changes the order of summation and little else.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.config import RunConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.regimes import Regime
from fastplan.data.sampling import evaluation_samples, stream_rng, training_samples
from fastplan.errors import UserError
from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import batch_norms
from fastplan.planner.states import State
from fastplan.train.averaging import AveragedNetwork, estimate_batch_norm
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.evaluate import Evaluation, evaluate
from fastplan.train.precision import Precision

_STEPS_UNSEEN = 16  # from one look at the loss to the next: on a GPU each waits for all work that is queued


@dataclass(frozen=True)
class EpochStats:
    """loss: mean over the epoch, nan where it diverged. clips, clip_frames: trained on, by all ranks. seconds: of the
    clock; data_seconds: the part that the slowest rank spent waiting for clips. grad_norm: mean before clipping."""

    loss: float
    clips: int
    clip_frames: int
    seconds: float
    data_seconds: float
    grad_norm: float


def regimes_of(state: State, clips: int) -> list[Regime]:
    """The regime of each step of an epoch of so many clips. Raises `UserError` where they do not make a step."""
    if regimes := [Regime(*step) for step in state.steps(clips)]:
        return regimes
    raise UserError(
        f"state '{state.name}' takes {state.effective_batch} clips a step (batch_size x accumulate), but an epoch has "
        f"only {clips}: lower them or set data.clips_per_epoch"
    )


class Trainer:
    """The network, its average, the optimizer of the current state, and the loaders.

    target: clip regime of every validation. on_step: called with (step, steps) after each optimizer step. ranks: among
    which every batch is divided; their networks must begin with the same weights. clock_s: by which epochs are timed.
    """

    def __init__(
        self,
        network: VideoNetwork,
        config: RunConfig,
        *,
        train_loader: ClipLoader,
        val_loader: ClipLoader,
        target: State,
        precision: Precision,
        on_step: Callable[[int, int], None] = lambda step, steps: None,
        ranks: Ranks = ALONE,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.network = network
        self._clock_s = clock_s
        self._ranks = ranks
        self._config = config
        self._train_loader = train_loader
        self._val_loader = val_loader
        self._target = target
        self._precision = precision
        self._on_step = on_step
        for norm in batch_norms(network) if config.train.sync_bn else ():
            norm.group = ranks.group
        self._average = AveragedNetwork(network, config.train.average_epochs)
        self._state = target

    def enter(self, state: State, weights: dict[str, Any] | None) -> None:
        """Begin a state: load `weights` (None keeps what is there) and make a new optimizer."""
        self._state = state
        if weights is not None:
            self.load_weights(weights)
        for network in (self.network, self._average.network):
            for norm in batch_norms(network):
                norm.freeze(state.freeze_bn)
        self._average.network.requires_grad_(False)
        self._optimizer = self._make_optimizer(state.lr)
        self._scaler = self._precision.scaler()

    def train_epoch(self, stream: str, epoch: int, *, lr_scale: Callable[[float], float] | None = None) -> EpochStats:
        """Train one epoch, the `epoch`-th (from 1) of `stream`.

        lr_scale: factor on the learning rate as a function of the fraction of this epoch done, None for a constant
        rate. Stops early, with a loss of nan, where the loss is not finite. Raises `UserError` where an epoch holds no
        full step.
        """
        state, config, ranks = self._state, self._config, self._ranks
        samples = training_samples(
            self._train_loader.index,
            state.clip,
            config.data.augment,
            seed=config.seed,
            stream=stream,
            epoch=epoch - 1,
            clips=config.data.clips_per_epoch,
            short=config.data.short,
            rank=ranks.rank,
            world=ranks.world,
        )
        regimes = regimes_of(state, config.data.clips_per_epoch or len(self._train_loader.index))
        steps = len(regimes)
        self._train_loader.configure(state.clip, ranks.share(state.batch_size))
        self.network.train()
        self._average.share_frozen(self.network)
        drawn_by = f"{stream}/torch/{ranks.rank}" if ranks.rank else f"{stream}/torch"
        torch.manual_seed(int(stream_rng(config.seed, drawn_by, epoch).integers(2**62)))
        begin, data_seconds = self._clock_s(), 0.0
        losses, norms = torch.zeros(2, device=self._precision.device)
        passes = [Regime(r.spec, ranks.share(r.batch_size)) for r in regimes for _ in range(state.accumulate)]
        batches, pace = self._train_loader.epoch(samples, regimes=passes), self._precision.pace()
        clips = 0
        for step in range(steps):
            self._set_lr(state.lr * (1.0 if lr_scale is None else lr_scale(step / steps)))
            for _ in range(state.accumulate):
                waiting = self._clock_s()
                batch = next(batches)
                data_seconds += self._clock_s() - waiting
                with self._precision.autocast():
                    heads = self.network(batch.clips_NCTHW)
                    loss = self._loss(heads, batch.targets(heads[0].shape[1]))
                self._scaler.scale(loss / state.accumulate).backward()
                losses += loss.detach() / state.accumulate
                clips += len(batch.labels_N)
                pace.passed()
            ranks.mean_([losses, *(p.grad for p in self.network.parameters() if p.grad is not None)])
            norms += self._step()
            self._average.update(self.network, steps)
            self._on_step(step + 1, steps)
            if step % _STEPS_UNSEEN == 0 and not math.isfinite(float(losses)):
                break
        batches.close()
        self._merge_batch_norm(self.network)
        ranks.check_alike(list(self.network.parameters()))
        mean_loss = float(losses) / steps
        seconds, data_seconds = ranks.greatest(self._clock_s() - begin, data_seconds)
        clips *= ranks.world
        return EpochStats(
            loss=mean_loss if math.isfinite(mean_loss) else math.nan,
            clips=clips,
            clip_frames=clips * state.clip.length,
            seconds=seconds,
            data_seconds=data_seconds,
            grad_norm=float(norms) / steps,
        )

    def validate(self, *, views: int = 1) -> Evaluation:
        """Accuracy of the averaged weights on the validation videos, in the target clip regime."""
        clip, loader, ranks = self._target.clip, self._val_loader, self._ranks
        network = self.kept_network()
        loader.configure(clip, ranks.share(self._target.batch_size))
        samples = evaluation_samples(
            loader.index, clip, views=views, short=self._config.data.short, rank=ranks.rank, world=ranks.world
        )
        return evaluate(
            network,
            loader.epoch(samples, keep=True),
            videos=len(loader.index),
            autocast=self._precision.autocast(),
            ranks=ranks,
        )

    def kept_network(self) -> VideoNetwork:
        """The network that is validated and kept: averaged weights with BatchNorm estimated in the target regime."""
        if self._config.train.average_epochs == 0:
            return self.network
        if not self._state.freeze_bn:
            self._estimate_batch_norm(self._average.network)
        return self._average.network  # type: ignore[return-value]

    def weights(self) -> dict[str, Any]:
        """What the next state, or a later epoch, starts from."""
        return {
            "network": self.network.state_dict(),
            "average": self._average.network.state_dict(),
            "updates": self._average.updates,
        }

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take over the result of `weights`. Raises `UserError` where it belongs to another network."""
        try:
            self.network.load_state_dict(weights["network"])
            self._average.network.load_state_dict(weights["average"])
            self._average.updates = int(weights["updates"])
        except (KeyError, RuntimeError) as error:
            raise UserError(f"the checkpoint belongs to another network: {str(error).splitlines()[0]}") from None

    def optimizer_state(self) -> dict[str, Any]:
        """What else the next epoch of this state needs."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_optimizer_state(self, content: dict[str, Any]) -> None:
        """Take over the result of `optimizer_state`."""
        self._optimizer.load_state_dict(content["optimizer"])
        self._scaler.load_state_dict(content["scaler"])

    def _estimate_batch_norm(self, network: nn.Module) -> None:
        config, loader, clip, ranks = self._config, self._train_loader, self._target.clip, self._ranks
        shares = max(min(config.train.bn_clips, len(loader.index)) // ranks.world, 1)
        clips = shares * ranks.world
        unmixed = config.data.augment.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
        samples = training_samples(  # the same clips every time: statistics differ only where weights do
            loader.index, clip, unmixed, seed=config.seed, stream="bn", epoch=0, clips=clips,
            short=config.data.short, rank=ranks.rank, world=ranks.world,
        )  # fmt: skip
        loader.configure(clip, min(ranks.share(self._target.batch_size), shares))
        pace = self._precision.pace()

        def batches() -> Iterator[torch.Tensor]:
            for batch in loader.epoch(samples, keep=True):
                yield batch.clips_NCTHW
                pace.passed()

        estimate_batch_norm(network, batches(), self._precision.autocast())
        self._merge_batch_norm(network)

    def _merge_batch_norm(self, network: nn.Module) -> None:
        """Where ranks normalise with statistics of their own, let all go on with the mean of the running ones."""
        if self._ranks.world > 1 and not self._config.train.sync_bn:
            self._ranks.mean_(
                [b for norm in batch_norms(network) for b in (norm.running_mean, norm.running_var) if b is not None]
            )

    def _loss(self, heads: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        smoothing = self._config.optim.label_smoothing
        wide = torch.promote_types(heads[0].dtype, torch.float32)
        targets = targets.to(wide) if targets.is_floating_point() else targets
        return torch.stack([F.cross_entropy(h.to(wide), targets, label_smoothing=smoothing) for h in heads]).sum()

    def _step(self) -> torch.Tensor:
        """One step of the optimizer; the norm of its gradient, on the device, so that nobody waits for it."""
        self._scaler.unscale_(self._optimizer)
        limit = self._config.optim.clip_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _make_optimizer(self, lr: float) -> torch.optim.SGD:
        optim = self._config.optim
        heads = {id(p) for layer in self.network.classifiers() for p in layer.parameters()}
        body = [p for p in self.network.parameters() if id(p) not in heads and p.requires_grad]
        last = [p for p in self.network.parameters() if id(p) in heads]
        groups = [{"params": body, "scale": 1.0}, {"params": last, "scale": optim.classifier_lr_scale}]
        optimizer = torch.optim.SGD(
            groups, lr=lr, momentum=optim.momentum, nesterov=optim.nesterov, weight_decay=optim.weight_decay
        )
        self._optimizer = optimizer
        self._set_lr(lr)
        return optimizer

    def _set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]


def lr_factor(epoch: int, *, warmup: int, cosine: int | None) -> Callable[[float], float]:
    """Factor on the learning rate in `epoch` (from 1): linear up over `warmup` epochs, then 1, or where `cosine` gives
    the epochs in all, half a cosine down to 0."""

    def scale(done: float) -> float:
        at = epoch - 1 + done
        if at < warmup:
            return (at + 1e-3) / warmup
        if cosine is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (at - warmup) / (cosine - warmup)))

    return scale
