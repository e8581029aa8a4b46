"""The blocks of a study file that say how a network is built and trained: `model`, `optim`, `train`, `augment`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from harness.study.part import NotNegative, Part, Positive, Probability


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
