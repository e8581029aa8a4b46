"""The types that every block is made of, and every key of the blocks data and data.decode.

What every block of a study file is made of: strict types and the kinds of numbers. Knows no YAML and no torch.

The `data` block of a study file: which images, how they become pixels, which labels, who belongs together.
"""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A block of the study file: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


Acknowledgeable = Literal["exact_duplicate", "near_duplicate", "conflicting_labels", "prevalence_shift", "shortcut"]
"""kinds of findings that a study may accept with a reason; a group in two parts is none of them"""
Cell = str | int | float
"""what a condition holds a cell of a table against"""
Span = tuple[Number, Positive]
"""(centre, width) of a DICOM window"""


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
    trim: bool = False
    """grey images only: cut to what the picture shows, the largest part that is brighter than its background (of a
    slice through a head, the head); what lies outside, such as letters, is black, and its grey levels are stretched"""
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

    @model_validator(mode="after")
    def _only_grey_is_trimmed(self) -> Self:
        if self.trim and self.channels != 1:
            raise ValueError("trim looks for what is brighter than the background: set data.decode.channels to 1")
        return self

    @property
    def side(self) -> int:
        """The side of the square, or a typical one where images keep their sizes."""
        return min(224, self.longest) if self.size == "native" else self.size


class Data(Part):
    """Which images, which labels, who belongs together."""

    root: str
    """the folder with the images, from the working directory; or one .npz file as MedMNIST publishes them, which has
    its own labels, and its own split in the column `official`; `phantom` is the built-in data set
    of 140 patients, `phantom:1000` one of so many"""
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
    copies: Literal["apart", "together"] = "apart"
    """together: images that are equal, nearly equal or crops of one picture count as one group, for data whose patients
    are not known, whatever size they are decoded to; apart: `harness data audit` tells of them, and groups stay as they
    are"""
    per_group: Literal["none", "mean", "max"] = "mean"
    """scores per group beside those per image (group_auroc, ...): its probability is the mean over its images, or the
    largest; none: per image only"""
    split: str | None = None
    """a column that names each row's split; `test` rows are held out, all others are development; null: drawn"""
    test_fraction: Annotated[float, Field(ge=0.0, lt=0.9)] = 0.2
    """share of the rows held out as the test split (whole groups), when `split` is null; 0: none is, and every score is
    out of fold"""
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


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
