"""Every key of the blocks model, optim, train, augment and search, with its bounds and its meaning.

The blocks of a study file that say how a network is built and trained: `model`, `optim`, `train`, `augment`.

How a study spends its trials: the keys under `search:` of a study file.

The typed configuration of one trial: every key of a study file, what it means and what it may be.

A study file holds the same keys; where a search range stands in place of a value, `config.space` draws it.
This file knows no YAML, no Optuna and no torch.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.config.data import Data, NotNegative, Part, Positive, Probability
from harness.errors import nearest


class Model(Part):
    """The network: a backbone, its pooling and a head."""

    backbone: str = "resnet10t"
    """a timm or torchvision name (see `harness models list`); `timm/resnet18`, `torchvision/resnet18` where both do"""
    weights: str = "none"
    """none; pretrained (the library's own); one of its tags, such as a1_in1k or IMAGENET1K_V2; the path of a weights
    file; or an earlier study: `study:NAME` (its best trial of the same backbone) or `study:NAME/7`, where
    fold k starts from its fold k"""
    pooling: Literal["native", "avg", "max", "avgmax", "gem"] = "native"
    """from the feature map to the embedding: the backbone's own way; mean; maximum; their mean; or the generalised mean
    with a learnt exponent (GeM, Radenovic et al. 2019)"""
    head: Literal["linear", "mlp"] = "linear"
    """from the embedding to the logits: one linear layer, or one hidden layer (GELU) and one linear layer"""
    hidden: Annotated[int, Field(ge=1, le=65536)] = 256
    """width of the hidden layer of an mlp head"""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """dropout before the head"""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """stochastic depth (Huang et al. 2016), for backbones that have it"""


class Optim(Part):
    """The optimiser and its schedule."""

    name: str = "adamw"
    """adamw, adam, sgd, or another of timm's optimisers by name: lamb, lion, nadamw, ..."""
    lr: Positive = 1e-3
    """peak learning rate, after warm-up"""
    weight_decay: NotNegative = 1e-2
    """decoupled for adamw, L2 for sgd and adam; norms and biases are spared"""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """momentum of sgd; the first beta of adam and its relatives"""
    nesterov: bool = True
    """sgd: Nesterov momentum"""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """the second beta of adam and its relatives"""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """learning rate of each layer relative to the next one towards the head (Clark et al. 2020); 1: the same for all"""
    head_lr: Positive = 1.0
    """the head's learning rate, as a multiple of the backbone's"""
    schedule: Literal["constant", "step", "cosine", "onecycle", "plateau"] = "cosine"
    """after the warm-up: constant; step: times step_factor at step_at; cosine: down to lr_end; onecycle: from lr / 25
    up during the warm-up and down to nothing (Smith and Topin 2019); plateau: times step_factor when the training loss
    (with train.select: inner that of the inner part) has not improved for plateau_epochs"""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """share of all steps with rising learning rate"""
    lr_end: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """cosine: the last learning rate, as a share of lr"""
    step_at: tuple[float, ...] = (0.6, 0.85)
    """step: shares of training after which the rate is multiplied by step_factor"""
    step_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """step and plateau: what the rate is multiplied by"""
    plateau_epochs: Annotated[int, Field(ge=1)] = 3
    """plateau: epochs without improvement before the rate falls"""
    clip: NotNegative = 1.0
    """largest norm of the gradient; 0 switches clipping by norm off"""
    clip_value: NotNegative = 0.0
    """largest absolute value of each gradient entry, clipped before the norm; 0 switches it off"""
    l1: NotNegative = 0.0
    """weight of the sum of absolute weights in the loss; norms and biases are spared"""

    @field_validator("step_at", mode="before")
    @classmethod
    def _step_at_from_list(cls, value: object) -> object:
        return tuple(float(v) for v in value) if isinstance(value, list) else value


class Train(Part):
    """The training of one fold."""

    epochs: Annotated[int, Field(ge=1, le=10000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    accumulate: Annotated[int, Field(ge=1, le=65536)] = 1
    """batches whose gradients make one optimiser step: batch_size * accumulate rows"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a card of compute capability 8.0 or later, and on a CPU that computes in bf16 unless the network
    has depthwise convolutions; otherwise fp32. Decided by this rule when the study begins, and kept"""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile: true compiles, which takes a minute or more for each backbone and changes the last digits; auto
    and false do not"""
    deterministic: bool = False
    """only algorithms that give the same numbers every time, also on a GPU, where it is slower; a CPU always does"""
    freeze: Annotated[int, Field(ge=0, le=1000)] = 0
    """stages, counted from the input, whose weights and batch-norm statistics stay as they were loaded; what each
    number freezes: `harness models show NAME`"""
    unfreeze_every: Annotated[int, Field(ge=0)] = 0
    """gradual unfreezing (Howard and Ruder 2018): every so many epochs the last frozen stage begins to train; 0: it
    never does"""
    class_weights: bool = False
    """weigh the loss by inverse class frequency of the fold's training rows; not together with sampling: balanced"""
    pos_weights: bool = False
    """several labels an image: weigh each label's yes by its no-to-yes ratio in the fold's training rows; not together
    with class_weights, which balances yes and no, too, nor with sampling: balanced"""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """shuffle: every training row once an epoch; balanced: as many rows, drawn with replacement, every class equally
    often"""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """share of each target that is spread over all classes"""
    focal: NotNegative = 0.0
    """gamma of the focal loss (Lin et al. 2017), which turns to hard rows; 0: cross-entropy"""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """decay per step of an exponential moving average of the weights, which is then what is kept; 0: none"""
    swa: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """stochastic weight averaging (Izmailov et al. 2018) over this last share of the epochs; 0: none. It needs a rate
    that stays up (optim.lr_end, or schedule: constant): a cosine to nothing leaves almost equal weights to average"""
    select: Literal["last", "inner", "scored_fold"] = "last"
    """which epoch's weights are kept: the last; the best on an inner part of the training rows, whole groups, which is
    then not trained on; or the best on the very fold that is scored, which is OPTIMISTIC and is marked so everywhere"""
    inner: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.2
    """select: inner: the share of the training rows that chooses the epoch"""
    monitor: Literal["log_loss", "brier", "auroc", "auprc", "accuracy", "balanced_accuracy"] = "log_loss"
    """what the best epoch is best by, where one is chosen"""
    patience: Annotated[int, Field(ge=0)] = 0
    """stop after so many epochs without a better one, where one is chosen; 0: never"""


class Augment(Part):
    """Random changes of the training images, drawn per image. 0 switches one off."""

    hflip: Probability = 0.0
    """probability of a left-right flip"""
    vflip: Probability = 0.0
    """probability of an up-down flip"""
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """largest rotation, degrees either way"""
    translate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """largest shift, as a share of the side"""
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """largest relative zoom in or out, e.g. 0.2"""
    shear: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    """largest shear, degrees"""
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """largest additive change, as a share of the intensity range"""
    contrast: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """largest relative change of contrast about the image's mean"""
    gamma: Annotated[float, Field(ge=0.0, lt=2.0)] = 0.0
    """largest change of the exponent, in log units: x ** exp(+-gamma)"""
    saturation: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """largest relative change of colour saturation; grey images have none"""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """largest turn of the colour circle, as a share of it; grey images have none"""
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """largest standard deviation of Gaussian noise, as a share of the intensity range"""
    blur: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """largest sigma of a Gaussian blur, in pixels"""
    erase: Probability = 0.0
    """probability of blanking a random rectangle (random erasing)"""
    probability: Probability = 1.0
    """probability with which each of the changes from rotate to blur is made, drawn per image and change"""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """ready-made changes besides: RandAugment (Cubuk et al. 2020) or TrivialAugment (Mueller and Hutter 2021)"""
    policy_ops: Annotated[int, Field(ge=1, le=8)] = 2
    """randaugment: changes per image"""
    policy_magnitude: Probability = 0.3
    """randaugment: strength of each; trivialaugment: the largest strength, 1 for the paper's"""
    mixup: NotNegative = 0.0
    """alpha of mixup (Zhang et al. 2018): shares are drawn from Beta(alpha, alpha); 0: none"""
    cutmix: NotNegative = 0.0
    """alpha of CutMix (Yun et al. 2019); with mixup too, each image draws which of the two it gets; 0: none"""
    synthetic: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """generated images per training image, from a generator fitted to the fold's training rows only; 0: none"""
    drawn_lesions: Annotated[float, Field(ge=0.0, le=20.0)] = 0.0
    """generated images per training image, from the fold's training images of the first class: half with a bright
    lesion drawn in, as the last class, half with harmless marks; for two classes of grey images; 0: none"""


Cost = Literal["latency_ms", "megabytes", "parameters"]
COSTS: tuple[str, ...] = ("latency_ms", "megabytes", "parameters")


@dataclass(frozen=True)
class Constraint:
    """What a trial's cost may be at most, or must be at least."""

    text: str
    """as it was written, which is also its name"""
    cost: str
    at_most: bool
    bound: float

    def violation(self, costs: dict[str, float]) -> float:
        """By how much the bound is missed; 0 or less where it is met."""
        return (costs[self.cost] - self.bound) * (1.0 if self.at_most else -1.0)


class Search(Part):
    """How the study spends its trials. Nothing here changes what one trial computes."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """the TOTAL number of trials of the study"""
    metric: Literal["auroc", "auprc", "accuracy", "balanced_accuracy", "log_loss", "brier"] = "auroc"
    sampler: Literal["tpe", "gp", "cmaes", "random", "qmc", "grid"] = "tpe"
    """who proposes the next trial; docs/searching.md says when to take which"""
    startup: Annotated[int, Field(ge=1)] = 5
    """random trials before tpe and gp start to model"""
    enqueue: tuple[dict[str, bool | int | float | str | None], ...] = ()
    """points to begin with, such as [{optim.lr: 1.0e-3}]; what a point leaves out is drawn"""
    costs: tuple[Cost, ...] = ()
    """of latency_ms, megabytes, parameters: made small beside the metric; the study then has a front of best trials"""
    constraints: tuple[str, ...] = ()
    """such as ["megabytes <= 20", "latency_ms <= 5"]: a trial that breaks one is not trained and never the best"""
    pruner: Literal["race", "wilcoxon", "median", "none"] = "race"
    """what stops a hopeless trial: race: its chance to overtake the best one, inside the first fold and after each fold
    (docs/searching.md); wilcoxon: folds that are worse than the best trial's, paired; median: worse than most trials"""
    race_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """race stops a trial whose chance to overtake is below this, times the share of its training that is done; larger
    is cheaper and loses the best trial more often"""
    pruner_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.13
    """threshold of the wilcoxon pruner; .13 stops a trial after three folds that are all worse"""
    timeout_minutes: Positive | None = None
    """the TOTAL time of the study over all of its runs: no trial starts after it"""
    trial_minutes: Positive | None = None
    """a trial that has trained for longer is pruned at the end of the epoch"""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """stop the study after this many failed trials in a row"""

    @field_validator("enqueue", "costs", "constraints", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("constraints")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_constraint(text)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.costs)) < len(self.costs):
            raise ValueError("search.costs names a cost twice")
        if self.costs and self.pruner != "none":
            raise ValueError(
                "search.costs: a trial whose folds are worse may still be the smallest or the fastest, so none can be "
                "stopped early: set search.pruner: none as well"
            )
        if self.costs and self.sampler == "cmaes":
            raise ValueError("search.costs: cmaes follows one objective; set search.sampler: tpe or gp")
        if self.enqueue and self.sampler == "grid":
            raise ValueError("search.enqueue: a grid visits every point anyway; leave enqueue out")
        return self


def parse_constraint(text: str) -> Constraint:
    """'megabytes <= 20' as data. Raises ValueError with how it is written."""
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*([-+0-9.eE_]+)\s*", text)
    if not found:
        raise ValueError(f"{text!r}: write a cost, <= or >=, and a number, such as 'megabytes <= 20'")
    name, sign, number = found.groups()
    if name not in COSTS:
        raise ValueError(f"{text!r}: {name} is no cost.{nearest(name, COSTS)} Costs are {', '.join(COSTS)}")
    try:
        return Constraint(text, name, sign == "<=", float(number))
    except ValueError:
        raise ValueError(f"{text!r}: {number} is no number") from None


def violations(search: Search, costs: dict[str, float]) -> dict[str, float]:
    """By how much each constraint is missed, by its text; 0 or less where it is met."""
    return {text: parse_constraint(text).violation(costs) for text in search.constraints}


def is_infeasible(search: Search, costs: dict[str, float]) -> bool:
    """Whether measured costs break a constraint."""
    return bool(costs) and any(by > 0 for by in violations(search, costs).values())


NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""of a study: it is a folder and an experiment, too"""


class Spec(Part):
    """One trial, whole."""

    name: str
    """of the Optuna study and the MLflow experiment; the file's own name when left out"""
    description: str = ""
    """one line for lists and for MLflow"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """the start of every random decision: folds, weights, order, augmentation, proposals"""
    data: Data
    model: Model = Model()
    optim: Optim = Optim()
    train: Train = Train()
    augment: Augment = Augment()
    search: Search = Search()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(NAME, value):
            raise ValueError(
                "use letters, digits, '_', '-' and '.', at most 64 of them, starting with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Spec":
        if list(self.optim.step_at) != sorted(self.optim.step_at):
            raise ValueError("optim.step_at must rise, e.g. [0.6, 0.85]")
        train = self.train
        if train.ema and train.swa:
            raise ValueError("train.ema and train.swa both average the weights: set one of them to 0")
        if train.patience and train.select == "last":
            raise ValueError("train.patience stops by train.select's choice of epoch: set train.select: inner as well")
        if train.swa and train.select != "last":
            raise ValueError("train.swa keeps an average of the last epochs: set train.select: last")
        if train.unfreeze_every and not train.freeze:
            raise ValueError("train.unfreeze_every: nothing is frozen: set train.freeze as well")
        return self
