"""The optimiser of a spec's `optim` block: its parameter groups, penalties and clipping. Knows no data or folds."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness.config.spec import Optim
from harness.errors import RequestError, nearest

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
