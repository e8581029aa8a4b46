"""The typed configuration of one trial: every key of a study file, what it means and what it may be.

A study file holds the same keys; where a search range stands in place of a value, `study.space` draws it.
This file knows no YAML, no Optuna and no torch.
"""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Acknowledgeable = Literal["exact_duplicate", "near_duplicate", "conflicting_labels", "prevalence_shift", "shortcut"]
"""kinds of findings that a study may accept with a reason; a group in two parts is none of them"""
Cell = str | int | float
"""what a condition holds a cell of a table against"""
Number = Annotated[float, Field(allow_inf_nan=False)]


Span = tuple[Number, Positive]
"""(centre, width) of a DICOM window"""


class Part(BaseModel):
    """A block of the study file: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Decode(Part):
    """How a file becomes pixels: see [decoding](decoding.md). Part of the pixel store's key and of every bundle."""

    size: Annotated[int, Field(ge=8, le=2048)] | Literal["native"] = 128
    """side of the square that every image is resized to, in pixels; `native`: every image keeps its own size"""
    longest: Annotated[int, Field(ge=32, le=4096)] = 1024
    """native sizes only: images with a longer side are shrunk to this one, in pixels"""
    fit: Literal["pad", "stretch", "crop"] = "pad"
    """pad: keep the aspect ratio and fill with the border colour black; stretch: ignore it; crop: fill and cut"""
    channels: Literal[1, 3] = 1
    """1: grey; 3: RGB (grey images are repeated)"""
    window: Annotated[int, Field(ge=1)] | Span | tuple[Span, Span, Span] | None = None
    """DICOM window: [centre, width] in modality units, such as [40, 80] for brain; three of them become red, green and
    blue (channels: 3); a number picks one of the file's own, counted from 1; null: the first of the file's own"""
    frame: Literal["middle", "first"] | Annotated[int, Field(ge=1)] = "middle"
    """which frame of a multi-frame DICOM file: middle (number n // 2 + 1 of n), first, or a number counted from 1"""

    @field_validator("window", mode="before")
    @classmethod
    def _window_from_list(cls, value: object) -> object:
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        if not isinstance(value, (list, tuple)):
            raise ValueError("write [centre, width], three such, or the number of a window of the file, from 1")
        windows = [value] if all(_is_number(part) for part in value) else list(value)
        for one in windows:
            pair = isinstance(one, (list, tuple)) and len(one) == 2 and all(_is_number(part) for part in one)
            if not pair or not math.isfinite(one[0]) or not 0 < one[1] < math.inf:
                raise ValueError(
                    "a window is [centre, width] with a width above 0, such as [40, 80]; three windows are three such"
                )
        if len(windows) not in (1, 3):
            raise ValueError("give one window, [40, 80], or three, [[40, 80], [80, 200], [600, 2800]]")
        spans = tuple((float(one[0]), float(one[1])) for one in windows)
        return spans[0] if windows[0] is value else spans

    @field_validator("frame", mode="before")
    @classmethod
    def _frame_by_word_or_number(cls, value: object) -> object:
        if value in ("middle", "first") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise ValueError("write middle, first, or the number of a frame, from 1")

    @model_validator(mode="after")
    def _three_windows_are_three_channels(self) -> Self:
        if isinstance(self.window, tuple) and len(self.window) == 3 and self.channels != 3:
            raise ValueError("window: three windows are three channels: set data.decode.channels to 3")
        return self

    @property
    def side(self) -> int:
        """The side of the square, or a typical one where images keep their sizes."""
        return min(224, self.longest) if self.size == "native" else self.size


class Data(Part):
    """Which images, which labels, who belongs together."""

    root: str
    """the folder with the images, from the working directory; or one .npz file as MedMNIST publishes them, which has
    its own labels, and its own split in the column `official`; `phantom` is the built-in data set"""
    labels: str = "labels.csv"
    """the table of labels (CSV or the like, Parquet), from `root` or from the working directory; `folders`: no table,
    the first folder under `root` is the class"""
    image: str = "{file}"
    """the image's path from `root`, built from columns: `images/{file}`, or `images/{id:0>3}.png` to pad ids"""
    label: str | Annotated[tuple[str, ...], Field(min_length=1)] = "label"
    """the column with the class; or a list of columns with 1 and 0, for several labels an image (multi-label)"""
    missing: Literal["refuse", "ignore", "negative"] = "refuse"
    """what an empty cell (or -1) among several labels means: an error; not known (left out of loss, scores); or no"""
    pattern: str | None = None
    """a regular expression for the image's whole path from `root`; its named groups become columns:
    `images/(?P<case>[^_]+)_(?P<stain>[^_]+)_.*`. Columns are what label, group, split, join and where can name"""
    join: str | None = None
    """a column of both the pattern and the table of labels: each image on disk gets the row of its case, and `image` is
    not used; null: the table has a row for each image"""
    where: dict[str, Cell | tuple[Cell | None, ...]] | None = None
    """which rows to use, by column (also width, height, mode and format from the image's header, unless the table has
    such a column): `{stain: he}`, a list of values, or two numbers as a range, both ends in: `{width: [64, null]}`"""
    classes: tuple[str, ...] | None = None
    """class names in order (the last is the positive class of a binary task); null: the sorted values"""
    group: str
    """the column of what must never straddle two folds (patient, lesion, case); `none` says there is none"""
    per_group: Literal["none", "mean", "max"] = "mean"
    """scores per group beside those per image (group_auroc, ...): its probability is the mean over its images, or the
    largest; none: per image only"""
    split: str | None = None
    """a column that names each row's split; `test` rows are held out, all others are development; null: drawn"""
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.2
    """share of the rows held out as the test split (whole groups), when `split` is null"""
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    """K, the parts of the development data"""
    on_error: Literal["refuse", "drop"] = "refuse"
    """what to do about unreadable images and rows without a partner: stop, or list, count and leave out"""
    acknowledge: dict[Acknowledgeable, str] | None = None
    """findings of `harness data audit` that may stay, each with the reason in words, which every run then carries:
    `{conflicting_labels: "two readers disagreed, both labels are kept"}`"""
    decode: Decode = Decode()

    @field_validator("pattern")
    @classmethod
    def _names_groups(cls, value: str | None) -> str | None:
        try:
            if value is not None and not re.compile(value).groupindex:
                raise ValueError("it names no group: write (?P<case>...) around what the column `case` shall hold")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return value

    @field_validator("where", mode="before")
    @classmethod
    def _conditions(cls, value: object) -> object:
        return {name: _condition(name, one) for name, one in _dotted(value)} if isinstance(value, dict) else value

    @field_validator("acknowledge")
    @classmethod
    def _in_words(cls, value: dict[Acknowledgeable, str] | None) -> dict[Acknowledgeable, str] | None:
        for kind, reason in (value or {}).items():
            if len(reason.split()) < 3:
                raise ValueError(f"{kind}: say in words why it may stay (three words or more)")
        return value

    @model_validator(mode="after")
    def _columns_fit(self) -> "Data":
        if self.group in (self.where or {}):
            raise ValueError(
                f"where: {self.group} is data.group, whose values tell who somebody is and would stand in every log. "
                "Leave rows out of the table of labels instead, or choose by another column"
            )
        if self.join is not None and self.join not in (re.compile(self.pattern).groupindex if self.pattern else ()):
            raise ValueError(f"join: {self.join} is no group of data.pattern. Write (?P<{self.join}>...) there")
        return self

    @field_validator("classes", "label", mode="before")
    @classmethod
    def _classes_from_list(cls, value: object) -> object:
        return tuple(str(v) for v in value) if isinstance(value, list) else value


def _dotted(block: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{'dicom': {'Modality': 'CT'}} as it comes from --set: pairs such as ('dicom.Modality', 'CT')."""
    for name, value in block.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _condition(name: str, value: object) -> object:
    if value is None or value == []:
        raise ValueError(f"{name}: write a value, a list of values, or [low, high]")
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if any(isinstance(one, bool) for one in values):
        raise ValueError(f'{name}: write the cell\'s own text in quotes, such as "yes" or "true"')
    if None in values and (len(values) != 2 or any(isinstance(one, str) for one in values)):
        raise ValueError(f"{name}: null is an open end of a range of two numbers, such as [64, null]")
    return values if isinstance(value, list | tuple) else value


class Model(Part):
    """The network: a backbone, its pooling and a linear head."""

    backbone: str = "resnet10t"
    """a timm or torchvision name; `timm/resnet18` or `torchvision/resnet18` where both have it"""
    weights: str = "none"
    """none; pretrained (the library's own file, found in its cache); or the path of a weights file"""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """dropout before the head"""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """stochastic depth, for timm backbones that have it"""


class Optim(Part):
    """The optimiser and its schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    """peak learning rate, after warm-up"""
    weight_decay: NotNegative = 1e-2
    """decoupled for adamw, L2 for sgd; norms and biases are spared"""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """momentum of sgd (Nesterov); adamw's first beta"""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """share of all steps with linearly rising learning rate"""
    step_at: tuple[float, ...] = (0.6, 0.85)
    """step schedule: shares of training after which the rate is multiplied by step_factor"""
    step_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    clip: NotNegative = 1.0
    """largest norm of the gradient; 0 switches clipping off"""

    @field_validator("step_at", mode="before")
    @classmethod
    def _step_at_from_list(cls, value: object) -> object:
        return tuple(float(v) for v in value) if isinstance(value, list) else value


class Train(Part):
    """The training of one fold."""

    epochs: Annotated[int, Field(ge=1, le=10000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: measured once for the backbone, size and device, and remembered"""
    class_weights: bool = False
    """weigh the loss by inverse class frequency of the fold's training rows"""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    select: Literal["last"] = "last"
    """which epoch's weights are kept and scored: the last (no selection on the scored fold)"""


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
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """largest standard deviation of Gaussian noise, as a share of the intensity range"""
    blur: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """largest sigma of a Gaussian blur, in pixels"""
    erase: Probability = 0.0
    """probability of blanking a random rectangle (random erasing)"""


class Search(Part):
    """How the study spends its trials. Nothing here changes what one trial computes."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """the TOTAL number of trials of the study"""
    metric: Literal["auroc", "auprc", "accuracy", "balanced_accuracy", "log_loss", "brier"] = "auroc"
    sampler: Literal["tpe", "random", "grid", "qmc"] = "tpe"
    startup: Annotated[int, Field(ge=1)] = 5
    """random trials before tpe starts to model"""
    pruner: Literal["wilcoxon", "median", "none"] = "wilcoxon"
    """wilcoxon: stop a trial whose finished folds are worse than the best trial's, paired by fold"""
    pruner_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.13
    """threshold of the wilcoxon pruner; .13 kept the winner in simulations and used 70% of the folds"""
    timeout_minutes: Positive | None = None
    """start no further trial after this time"""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """stop the study after this many failed trials in a row"""


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
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
            raise ValueError(
                "use letters, digits, '_', '-' and '.', at most 64 of them, starting with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Spec":
        if list(self.optim.step_at) != sorted(self.optim.step_at):
            raise ValueError("optim.step_at must rise, e.g. [0.6, 0.85]")
        return self


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
