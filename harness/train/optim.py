"""Optimiser and parameter groups, learning-rate schedule, averages of weights.

The optimiser of a spec's `optim` block: its parameter groups, penalties and clipping. Knows no data or folds.

The learning rate of a step and what stands still in an epoch, as pure functions: a resumed training needs no
scheduler state. Knows no torch.

Every schedule is written in terms of optimiser steps, from 0; `steps` is their number over the whole training.

Averages of a network's weights over its training, which are then what is kept: EMA and SWA. Knows no data.

The updates are torch's foreach kernels over tensors that are looked up once. torch's own AveragedModel is not used: in
every step it walks through all modules, and copies its counter to the device, which waits for a GPU's queue.
"""

import copy
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config.spec import Optim, Train
from harness.errors import RequestError, nearest
from harness.models.network import Network

TOKENS = ("class_token", "pos_embedding", "relative_position_bias_table")
"""last parts of the names that torchvision gives to class and position tokens; timm's networks list theirs"""
HEAD = "head."
TORCH = ("adamw", "adam", "sgd")
"""optimisers that are torch's own, in their fused form; all others are timm's"""


def build_optimizer(network: nn.Module, optim: Optim, layers: Mapping[str, int] | None = None) -> torch.optim.Optimizer:
    """The optimiser of the network's trainable parameters, in groups by layer and by whether they decay.

    `layers`: parameter name -> layer number from the input, the head's the largest; None: no layers but the head.
    Each group carries `scale`: its rate relative to the schedule's, so a step sets group["lr"] = rate * scale. For a
    layer it is layer_decay ** (deepest - layer), for the head times head_lr. Norms, biases and other one-dimensional
    parameters, class and position tokens have weight_decay 0 and `l1` 0. Raises RequestError as check_optimizer does,
    and where the optimiser refuses its momentum or betas.
    """
    check_optimizer(optim.name)
    groups = _groups(network, optim, layers, set())
    betas = (optim.momentum, optim.beta2)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, fused=True)
    if optim.name == "adam":
        return torch.optim.Adam(groups, lr=optim.lr, betas=betas, fused=True)
    nesterov = optim.nesterov and optim.momentum > 0
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov, fused=True)
    from timm.optim import create_optimizer_v2, get_optimizer_info

    options: dict[str, Any] = {}
    info = get_optimizer_info(optim.name)
    if info.has_betas and info.num_betas == 2:
        options["betas"] = betas
    if "sgd" in optim.name:
        options["nesterov"] = nesterov
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            groups, opt=optim.name, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum, **options
        )
    except ValueError as error:  # such as Nesterov momentum of 0
        raise RequestError(
            f"optim.name: {optim.name} does not go with optim.momentum={optim.momentum:g} and "
            f"optim.beta2={optim.beta2:g}: {error}. Change them, or the optimiser."
        ) from error
    return made


def add_trainable(
    optimizer: torch.optim.Optimizer, network: nn.Module, optim: Optim, layers: Mapping[str, int] | None = None
) -> None:
    """Add the parameters that have become trainable since, as new groups; those already there stay where they are.

    The groups depend on nothing but the order in which parameters were thawed: a resumed training that thaws the same
    levels in the same order can load the optimiser's state.
    """
    present = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for group in _groups(network, optim, layers, present):
        optimizer.add_param_group(group)


def _groups(
    network: nn.Module, optim: Optim, layers: Mapping[str, int] | None, present: set[int]
) -> list[dict[str, Any]]:
    """Groups by (scale, decay or not), in this order, of the trainable parameters not in `present`: as few as there can
    be, because a fused step takes its time per group."""
    if layers is None:
        layers = {name: 0 for name, _ in network.named_parameters()}
    deepest = max(layers.values(), default=0)
    spared = _spared(network)
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in present:
            scale = optim.layer_decay ** (deepest - layers[name]) * (optim.head_lr if name.startswith(HEAD) else 1.0)
            found.setdefault((scale, name not in spared), []).append(parameter)
    groups = []
    for (scale, decays), parameters in sorted(found.items(), key=lambda item: item[0]):
        groups.append(
            {
                "params": parameters,
                "lr": optim.lr * scale,
                "scale": scale,
                "weight_decay": optim.weight_decay if decays else 0.0,
                "l1": optim.l1 if decays else 0.0,
            }
        )
    return groups


def _spared(network: nn.Module) -> set[str]:
    """Names of the parameters without weight decay: timm's rule, with torchvision's tokens besides."""
    listed: list[str] = []
    for prefix, module in network.named_modules():
        if callable(names := getattr(module, "no_weight_decay", None)):
            listed += [f"{prefix}.{name}" if prefix else name for name in names()]
    return {
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim <= 1
        or name.endswith(".bias")
        or name.split(".")[-1] in TOKENS
        or any(fnmatch.fnmatch(name, pattern) for pattern in listed)
    }


def check_optimizer(name: str) -> None:
    """Raises RequestError for an optimiser that is unknown, or that the training loop cannot drive."""
    if name in TORCH:
        return
    from timm.optim import list_optimizers

    reasons = {other: _unusable(other) for other in list_optimizers()}
    usable = sorted({*TORCH, *(other for other, reason in reasons.items() if not reason)})
    if name not in reasons:
        near = nearest(name.lower(), usable)
        known = near or f" All there are: {', '.join(usable)}."
        raise RequestError(f"optim.name: there is no optimiser {name}.{known}")
    if reasons[name]:
        raise RequestError(f"optim.name: {name} {reasons[name]}.{nearest(name, usable)} Or adamw, sgd, lamb, lion.")


def _unusable(name: str) -> str:
    """Why one of timm's optimisers cannot be driven by the training loop, or '' where it can."""
    from timm.optim import get_optimizer_info

    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        return f"needs the package {info.opt_class.split('.')[0]}, which this program does not use"
    if info.second_order:
        return "needs second derivatives, which the training loop does not compute"
    if info.opt_class.__name__ == "Kron":
        return "keeps more than tensors as its state, so that a resumed training could not go on with it exactly"
    return ""


def add_l1(optimizer: torch.optim.Optimizer) -> None:
    """Add the gradient of l1 * sum |w| to the gradients of each group with `l1` above 0: l1 * sign(w), and 0 at 0, as
    autograd has it. To be called once per optimiser step, on unscaled gradients, before they are clipped."""
    for group in optimizer.param_groups:
        if group["l1"] > 0:
            parameters = [p for p in group["params"] if p.grad is not None]
            signs = torch._foreach_sign([p.detach() for p in parameters])
            torch._foreach_add_([p.grad for p in parameters], signs, alpha=group["l1"])


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float, value: float, in_step: bool = False) -> None:
    """Bound each gradient entry to +-value, then the norm of all gradients together to `norm`; 0 switches one off.

    in_step: a fused optimiser's next step may divide the gradients itself, as it does for a loss scaler, which saves a
    pass over all of them; until then they are unclipped.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if value > 0:
        nn.utils.clip_grad_value_(parameters, value)
    if norm > 0 and in_step and getattr(optimizer, "_step_supports_amp_scaling", False):
        total = nn.utils.get_total_norm([p.grad for p in parameters])
        optimizer.grad_scale = (total / norm).clamp(min=1.0)  # type: ignore[attr-defined]
    elif norm > 0:
        nn.utils.clip_grad_norm_(parameters, norm)


DIV, FINAL_DIV = 25.0, 1e4
"""one-cycle: the first rate is lr / DIV, the last one lr / DIV / FINAL_DIV, as in torch and fastai"""
BETTER = 1e-4
"""plateau: a loss is better when it is lower by this share of the best so far, as in torch"""


def learning_rate(optim: Optim, step: int, steps: int, losses: Sequence[float] = ()) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`, before a layer's own scale.

    `losses`: the monitored loss of each finished epoch, in order; only the plateau schedule reads them. All but
    one-cycle begin with a linear warm-up over the first `optim.warmup` of the steps.
    """
    if optim.schedule == "onecycle":
        return optim.lr * one_cycle(step, steps, optim.warmup)
    warm = round(optim.warmup * steps)
    ramp = (step + 1) / (warm + 1) if step < warm else 1.0
    if optim.schedule == "plateau":
        return optim.lr * ramp * optim.step_factor ** falls(losses, optim.plateau_epochs)
    if ramp < 1.0 or optim.schedule == "constant":
        return optim.lr * ramp
    if optim.schedule == "step":
        passed = sum(step >= share * steps for share in optim.step_at)
        return optim.lr * optim.step_factor**passed
    progress = (step - warm) / max(1, steps - warm)
    return optim.lr * cosine(1.0, optim.lr_end, progress)


def cosine(start: float, end: float, progress: float) -> float:
    """From start (progress 0) to end (progress 1) along half a cosine (Loshchilov and Hutter 2017)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(step: int, steps: int, rising: float) -> float:
    """The rate as a share of its peak (Smith and Topin 2019): up from 1 / DIV during the first `rising` share of the
    steps, then down to 1 / DIV / FINAL_DIV, both along half a cosine; torch's OneCycleLR with cos annealing."""
    peak, last = rising * steps - 1, steps - 1
    if step <= peak:
        return cosine(1 / DIV, 1.0, step / peak if peak > 0 else 1.0)
    return cosine(1.0, 1 / DIV / FINAL_DIV, (step - peak) / (last - peak))


def falls(losses: Sequence[float], patience: int) -> int:
    """How often the rate has fallen: once for each `patience` epochs in a row without a better loss than the best so
    far (torch's ReduceLROnPlateau with its patience one lower). A loss that is not a number is never better."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - BETTER):
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


def frozen_stages(train: Train, epoch: int) -> int:
    """How many stages, counted from the input, stand still in an epoch."""
    return max(0, train.freeze - epoch // train.unfreeze_every) if train.unfreeze_every else train.freeze


class Average:
    """A second set of weights beside a network that trains.

    EMA (Polyak and Juditsky 1992): after step t = 0, 1, ... average = d * average + (1 - d) * weights with
    d = min(decay, (1 + t) / (10 + t)), so that the untrained weights are soon forgotten. SWA (Izmailov et al. 2018):
    the plain mean of the weights at the end of each epoch from epoch `first` on; before it there is no average.

    Batch-norm statistics are averaged like weights; for SWA `finish` estimates them anew. The average has the
    network's device and memory format and is in evaluation mode always.
    """

    def __init__(self, network: Network, decay: float, first: int) -> None:
        """decay 0: SWA from epoch `first`. The network must be on its device already, in its memory format: the
        average reads its tensors where they are now."""
        self.decay = decay
        self.first = first
        self.updates = 0
        self._trained = network
        self._average = copy.deepcopy(network).requires_grad_(False).eval()
        pairs = list(zip(_tensors(self._average), _tensors(network), strict=True))
        self._ours = [ours for ours, _ in pairs if ours.is_floating_point()]
        self._theirs = [theirs for _, theirs in pairs if theirs.is_floating_point()]
        self._counters = [(ours, theirs) for ours, theirs in pairs if not ours.is_floating_point()]

    def after_step(self) -> None:
        """To be called after each optimiser step."""
        if self.decay > 0:
            self._move(1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))

    def after_epoch(self, epoch: int) -> None:
        """To be called after the last step of each epoch (from 0)."""
        if self.decay == 0 and epoch >= self.first:
            self._move(1 / (self.updates + 1))

    def _move(self, share: float) -> None:
        torch._foreach_lerp_(self._ours, self._theirs, share)
        self.updates += 1

    def network(self) -> Network:
        """What to evaluate, score and save: the average, or the network itself as long as there is no average.
        It is one and the same object every time, and changes with the next step."""
        if self.updates == 0:
            return self._trained
        for ours, theirs in self._counters:
            ours.copy_(theirs)
        return self._average

    def finish(self, batches: Iterable[Tensor]) -> None:
        """SWA: estimate the batch-norm statistics of the averaged weights from inputs (B, ...) of the TRAINING rows,
        not augmented, as they enter the network. To be called before the average is scored or saved, in any epoch.
        Reads no batch where there is nothing to estimate: EMA, before `first`, and networks without batch norm."""
        if self.decay == 0 and self.updates > 0:
            estimate_statistics(self._average, trained_norms(self._average, self._trained), batches)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs, besides the trained network's own state."""
        return {"network": self._average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state of state_dict(), on any device."""
        self._average.load_state_dict(state["network"])
        self.updates = state["updates"]


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers that belong to the state, each once, also where a module has two names."""
    state = network.state_dict()
    names = [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]
    return [state[name] for name in names if name in state]


def build_average(network: Network, train: Train) -> Average | None:
    """The average that the spec asks for, or None. Raises RequestError as check_average does."""
    check_average(train)
    if train.ema > 0:
        return Average(network, train.ema, 0)
    if train.swa > 0:
        return Average(network, 0.0, train.epochs - max(1, round(train.swa * train.epochs)))
    return None


def check_average(train: Train) -> None:
    """Raises RequestError when two averages are asked for: only one set of weights can be kept."""
    if train.ema > 0 and train.swa > 0:
        raise RequestError(
            f"train.ema={train.ema:g} and train.swa={train.swa:g}: one average of the weights is kept, not two. "
            "Set one of them to 0."
        )


def trained_norms(average: nn.Module, trained: nn.Module) -> list[_BatchNorm]:
    """The average's batch-norm layers whose originals are being trained: frozen ones keep their loaded statistics."""
    pairs = zip(average.modules(), trained.modules(), strict=True)
    return [
        ours
        for ours, theirs in pairs
        if isinstance(ours, _BatchNorm)
        and ours.running_mean is not None
        and (not ours.affine or any(p.requires_grad for p in theirs.parameters()))
    ]


@torch.no_grad()
def estimate_statistics(network: nn.Module, norms: list[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Set the running statistics of batch-norm layers to the mean over inputs x (B, ...), each batch as heavy as its
    rows; with batches of one size what torch's update_bn gives. The rest of the network stays in evaluation mode, so
    neither dropout nor stochastic depth disturbs the statistics that inference will use, and nothing is drawn.

    Batch norm needs more than one value per channel: a batch of a single row may raise ValueError.
    """
    if not norms:
        return
    network.eval()
    momenta = [norm.momentum for norm in norms]
    rows = 0
    try:
        for norm in norms:
            norm.train()
        for x in batches:
            rows += len(x)
            for norm in norms:
                norm.momentum = len(x) / rows  # 1 at first: nothing is left of the old statistics
            network(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
