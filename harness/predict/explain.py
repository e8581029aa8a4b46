"""Where a network looks: Grad-CAM and overlays.

Grad-CAM (Selvaraju et al. 2017): which places of an image speak for a class, averaged over networks.

The only file that imports captum. What is explained is the log-odds of the class against all others (of a multi-label
task: its own logit): with two classes a single logit would tell half of the story. A heat map says where a network
looked, not why, and not what is there.

n: images, S, H, W: sides.

Where a network last looks at places of the image: the layer that Grad-CAM asks.

A convolutional network's is its last feature map. A transformer that reads its class token has it earlier: behind the
last attention no other token matters any more, so the tokens that this attention is given are asked (for timm's and
torchvision's ViTs the first norm of the last block). Nothing is known of a library here: modules are watched while one
image goes through, and of the maps whose every place has a gradient the last one is taken that has MAP_SIDE places
along each side. Small images leave the very last map 2 x 2 places, too few to point at anything: on the built-in data
set at 64 pixels a ResNet's last map pointed at the bleed in 2 % of the images, the last one of 8 x 8 places in 77 %.

B: images, C: channels, h, w: sides of the map, N: tokens.

Heat maps as PNG: the image as it is, beside it the same image in grey under its heat, class and probability below.

The only file that imports matplotlib, for a colour map that is perceptually uniform and safe for colour-blind readers.
Heat is drawn the more opaque the higher it is, so that cold places stay as they were, and the fainter the less probable
the class is: a map is scaled to its own hottest place, which an image without any finding has, too. A file is named
after its number in the output and the image's own file name; nothing of a DICOM header is drawn.

n: images, H, W: sides of the drawn image.

Pictures under the heat of one fold's network, for whoever shows images that this fold held out.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.config.data import Decode
from harness.ensemble.bundle import Bundle
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode
from harness.images.pixels import Pixels
from harness.metrics import METRICS
from harness.models.network import Network
from harness.train.batches import own_sizes, stream_images, to_input
from harness.train.checkpoint import FoldMeta, load_fold
from harness.train.step import in_fitting_batches
from harness.types import Progress

BATCH = 16
"""images of one backward pass, which keeps what a forward pass alone would let go; halved while the memory does not
suffice"""


def heat_maps(
    weights: list[Path], pixels: Pixels, classes: NDArray[np.int64], device: str, progress: Progress | None = None
) -> list[NDArray[np.float32]]:
    """For each image where the networks see its class (n,): (S, S) or (H, W), the size of its pixels, in [0, 1].

    Each network's map is scaled to its own maximum before the mean, for logits of two networks have no common unit.
    A map of zeros: no place speaks for the class. Raises RequestError for a network that has no feature map.
    """
    total = [np.zeros(shape, np.float32) for shape in _shapes(pixels)]
    for done, path in enumerate(weights, start=1):
        network, meta = load_fold(path, device)
        for row, one in enumerate(grad_cam(network, meta, pixels, classes, device)):
            total[row] += one
        if progress:
            progress("heat maps", done, len(weights))
    return [scaled(one) for one in total]


def grad_cam(
    network: Network, meta: FoldMeta, pixels: Pixels, classes: NDArray[np.int64], device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """Heat maps of one network, each scaled to its maximum."""
    from captum.attr import LayerGradCam

    network.eval().requires_grad_(False)
    images = stream_images(pixels, meta.mean, device)
    maps: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(pixels)

    def run(size: int) -> None:
        for rows in images.in_order(size):
            x = to_input(images.batch(rows), meta.mean, meta.std, torch.channels_last)
            target = torch.from_numpy(classes[rows.numpy()]).to(device)
            with torch.enable_grad(), exposed(network, find_feature_map(network, x)) as probe:
                explained = LayerGradCam(lambda x, c: log_odds(network(x), c, meta.multilabel), probe)
                cam = explained.attribute(x, additional_forward_args=(target,), relu_attributions=True)
            cam = F.interpolate(cam.detach(), x.shape[2:], mode="bilinear", align_corners=False)[:, 0].cpu()
            sizes = own_sizes(images, rows)
            for place, row in enumerate(rows.tolist()):
                maps[row] = scaled(_without_canvas(cam[place], None if sizes is None else sizes[place]))

    in_fitting_batches(run, BATCH, device)
    return maps


def log_odds(logits: Tensor, classes: Tensor, multilabel: bool) -> Tensor:
    """(B,) of one class each, from (B, C): against all others, or in a multi-label task its own logit."""
    own = logits.gather(1, classes[:, None])[:, 0]
    if multilabel:
        return own
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return own - others.logsumexp(dim=1)


def scaled(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divided by its maximum; zeros stay zeros."""
    top = float(heat.max())
    return np.asarray(heat / top if top > 0 else np.zeros_like(heat), dtype=np.float32)


def _without_canvas(heat: Tensor, size: Tensor | None) -> NDArray[np.float32]:
    """The part that the image itself fills: images of their own sizes stand in the middle of a canvas."""
    if size is not None:
        (height, width), (h, w) = heat.shape, size.tolist()
        top, left = (height - h) // 2, (width - w) // 2
        heat = heat[top : top + h, left : left + w]
    return np.asarray(heat.numpy())


def _shapes(pixels: Pixels) -> list[tuple[int, int]]:
    return [(int(image.shape[0]), int(image.shape[1])) for image in (pixels[row] for row in range(len(pixels)))]


INNER = ("attn", "attention", "mlp", "conv_dw", "drop", "ls1", "ls2")
"""parts of names of modules inside a block, which hold a piece of a map and not the map"""
MAP_SIDE = 7
"""places along a side that a map should have; 224 pixels leave most networks 7"""
TOUCHED = 0.9
"""share of the places that must have a gradient; rectifiers may leave some without"""


@dataclass(frozen=True)
class Layout:
    """How a tensor holds a map: bchw, bhwc, or bnc with `prefix` tokens (class, registers) before those of places."""

    kind: str
    height: int
    width: int
    prefix: int = 0

    @property
    def side(self) -> int:
        return min(self.height, self.width)

    def to_map(self, x: Tensor) -> Tensor:
        """(B, C, h, w)"""
        if self.kind == "bchw":
            return x
        if self.kind == "bhwc":
            return x.permute(0, 3, 1, 2)
        tokens = x[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], self.height, self.width)

    def put_back(self, maps: Tensor, x: Tensor) -> Tensor:
        """`x` with `maps` (B, C, h, w) in the places of its own; a copy, for what comes next may work in place."""
        if self.kind == "bchw":
            return maps.clone()
        if self.kind == "bhwc":
            return maps.permute(0, 2, 3, 1).clone()
        return torch.cat([x[:, : self.prefix], maps.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True)
class FeatureMap:
    name: str
    """of the module in the network"""
    layout: Layout


def find_feature_map(network: Network, x_BCHW: Tensor) -> FeatureMap:
    """The last map of MAP_SIDE places a side that the answer to `x_BCHW` depends on, place by place; where all are
    smaller, the last of the largest. Raises RequestError where there is none."""
    seen: list[tuple[str, Tensor, Layout]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
            layout = layout_of(output, x_BCHW) if isinstance(output, Tensor) else None
            if layout is None or not output.requires_grad:
                return None
            seen.append((name, output, layout))
            copy: Tensor = output.clone()
            return copy  # what comes next may work in place

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if name and not any(part.startswith(INNER) for part in name.split("."))
    ]
    try:
        with torch.enable_grad():
            answer = network(x_BCHW[:1].detach().requires_grad_()).square().sum()
            tensors = [tensor for _, tensor, _ in seen]
            gradients = torch.autograd.grad(answer, tensors, allow_unused=True) if seen else ()
    finally:
        for handle in handles:
            handle.remove()
    best: FeatureMap | None = None
    for (name, _, layout), gradient in zip(reversed(seen), reversed(gradients), strict=True):
        if gradient is None or (layout.to_map(gradient).abs().amax(dim=1) > 0).float().mean() < TOUCHED:
            continue
        if best is None or layout.side > best.layout.side:
            best = FeatureMap(name, layout)
        if best.layout.side >= MAP_SIDE or best.layout.kind == "bnc":  # tokens stay as many as they were at the start
            break
    if best is not None:
        return best
    raise RequestError(
        f"--explain: {type(network.backbone).__name__} has no feature map and no tokens of places that could be asked "
        "for a heat map. Predict without --explain, or build a bundle of other members."
    )


def layout_of(x: Tensor, image_BCHW: Tensor) -> Layout | None:
    """How `x` holds a map of the places of an image, or None where it holds none: one place is no map."""
    height, width = image_BCHW.shape[2:]
    if x.ndim == 4:
        found = [
            Layout(kind, h, w)
            for kind, h, w in (("bchw", *x.shape[2:]), ("bhwc", *x.shape[1:3]))
            if h * w > 1 and abs(h * width - w * height) <= max(height, width)  # the image's own proportions
        ]
        # both fit only where channels are as many as a side is long: more common is channels first
        return found[0] if found else None
    if x.ndim == 3 and height == width and x.shape[1] > 4:
        side = math.isqrt(x.shape[1])
        return Layout("bnc", side, side, x.shape[1] - side * side)
    return None


@contextmanager
def exposed(network: Network, where: FeatureMap) -> Iterator[nn.Identity]:
    """A module that the map goes through as (B, C, h, w) on its way, for whoever explains layers of that shape."""
    probe = nn.Identity()

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return where.layout.put_back(probe(where.layout.to_map(output)), output)

    handle = network.get_submodule(where.name).register_forward_hook(hook)
    try:
        yield probe
    finally:
        handle.remove()


COLOURS = "inferno"
OVERLAY_SIDE = 448
"""pixels of an image that networks see as a square, drawn"""
OPAQUE = 0.75
"""of the hottest place of an image whose class is certain"""
FAINTEST = 0.3
"""of that where the class is impossible"""
STRIP, MARGIN, GAP = 44, 10, 6
"""pixels: height of the strip below, its margin, between the two images"""
LONGEST_NAME = 60


def explain_part(
    bundle: Bundle,
    files: Sequence[Path],
    pixels: Sequence[Pixels],
    probabilities: NDArray[np.float64],
    device: str,
    folder: Path,
    before: int,
    all_members: bool,
    progress: Progress | None = None,
) -> list[Path | None]:
    """Write an overlay of each image into `folder`; (n,) their paths, None where a file could not be read again.

    probabilities (n, C) as they are told; before: answers that came earlier, for the numbers in names. The heat maps
    are the mean over the fold models of the best member, or of all members that see images as it does. Raises
    RequestError where the folder cannot be made or a network has no feature map.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--explain {folder}: cannot be made a folder ({error.strerror}). Name another.") from None
    classes = shown_class(probabilities, bundle.multilabel)
    best = best_member(bundle)
    number = bundle.decode_of[best]
    members = [m for m, other in enumerate(bundle.decode_of) if other == number] if all_members else [best]
    weights = [path for m in members for path in bundle.weights[m]]
    heats = heat_maps(weights, pixels[number], classes, device, progress)
    written: list[Path | None] = []
    for row, (file, heat) in enumerate(zip(files, heats, strict=True)):
        name, p = bundle.classes[classes[row]], float(probabilities[row, classes[row]])
        target = folder / overlay_name(before + row + 1, file, name, p)
        try:
            image = decode(file, for_display(bundle.decodes[number]))
        except Unreadable:  # it could be read a moment ago
            written.append(None)
            continue
        draw_overlay(image, heat, f"{name}  p = {p:.2f}", p).save(target)
        written.append(target)
    return written


def shown_class(p: NDArray[np.float64], multilabel: bool) -> NDArray[np.int64]:
    """(n,) whose heat is drawn: of two classes always the positive one, for what speaks for `normal` is everywhere;
    otherwise the most probable one."""
    if p.shape[1] == 2 and not multilabel:
        return np.ones(len(p), dtype=np.int64)
    return np.asarray(p.argmax(axis=1), dtype=np.int64)


def best_member(bundle: Bundle) -> int:
    """The member with the best out-of-fold score, by what the bundle says of its single members."""
    singles = [row for row in bundle.about.get("scores", ()) if row.get("kind") == "single"]
    if len(singles) != len(bundle.members):
        return 0
    sign = 1.0 if METRICS[bundle.metric].higher_is_better else -1.0
    return max(range(len(singles)), key=lambda m: sign * singles[m]["oof"][bundle.metric]["value"])


def overlay_name(number: int, file: Path, name: str, p: float) -> str:
    """Number in the output, the image's file name, class and probability; letters that file systems take."""
    plain = [re.sub(r"[^\w.-]+", "-", text).strip("-.")[:LONGEST_NAME] for text in (file.stem, name)]
    return f"{number:04d}_{'_'.join(filter(None, plain))}_p{p:.2f}.png"


def for_display(how: Decode) -> Decode:
    """The same picture, cut the same way, at a size for people."""
    return how if how.size == "native" else how.model_copy(update={"size": max(OVERLAY_SIDE, how.size)})


def draw_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], caption: str, p: float) -> PIL.Image.Image:
    """image (H, W, 1 or 3); heat (h, w) in [0, 1] for a class of probability p, stretched over it; side by side."""
    opaque = OPAQUE * (FAINTEST + (1 - FAINTEST) * p)
    picture = PIL.Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    width, height = picture.size
    spread = PIL.Image.fromarray(heat).resize((width, height), PIL.Image.Resampling.BICUBIC)
    hot = np.clip(np.asarray(spread), 0.0, 1.0)
    canvas = PIL.Image.new("RGB", (2 * width + GAP, height + STRIP))
    canvas.paste(picture.convert("RGB"), (0, 0))
    canvas.paste(PIL.Image.fromarray(blended(np.asarray(picture.convert("L")), hot, opaque)), (width + GAP, 0))
    pen = PIL.ImageDraw.Draw(canvas)
    font = PIL.ImageFont.load_default(15)
    pen.text((MARGIN, height + STRIP // 2), caption, font=font, fill="white", anchor="lm")
    if hot.max() > 0:
        _draw_scale(canvas, width + GAP, height, width, opaque, font)
    else:
        text = "no place speaks for it"
        pen.text((width + GAP + MARGIN, height + STRIP // 2), text, font=font, fill="white", anchor="lm")
    return canvas


def blended(grey: NDArray[np.uint8], hot: NDArray[np.float32], opaque: float) -> NDArray[np.uint8]:
    """(H, W, 3) grey levels (H, W) under heat (H, W) in [0, 1], `opaque` where it is 1."""
    import matplotlib

    colours = matplotlib.colormaps[COLOURS](hot)[..., :3] * 255
    share = (opaque * hot)[..., None]
    return np.asarray(np.round((1 - share) * grey[..., None] + share * colours), dtype=np.uint8)


def _draw_scale(
    canvas: PIL.Image.Image,
    left: int,
    top: int,
    width: int,
    opaque: float,
    font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont,
) -> None:
    """What the colours mean, over mid grey as over the image: from nothing to this image's hottest place."""
    pen = PIL.ImageDraw.Draw(canvas)
    words = [text for text in ("no evidence", "most") if width > 300]
    inner = width - 2 * MARGIN - (150 if words else 0)
    if inner < 20:
        return
    ramp = np.repeat(np.linspace(0, 1, inner, dtype=np.float32)[None], 12, axis=0)
    bar = PIL.Image.fromarray(blended(np.full(ramp.shape, 96, np.uint8), ramp, opaque))
    middle = top + STRIP // 2
    start = left + MARGIN + (95 if words else 0)
    canvas.paste(bar, (start, middle - 6))
    if words:
        pen.text((left + MARGIN, middle), words[0], font=font, fill="white", anchor="lm")
        pen.text((start + inner + 8, middle), words[1], font=font, fill="white", anchor="lm")


Ints = NDArray[np.int64]


def fold_overlays(
    weights: Callable[[int], Path], pixels: Pixels, device: str
) -> Callable[[int, Ints, Ints], list[NDArray[np.uint8]]]:
    """overlay(fold, rows (n,), classes (n,)) -> n pictures (H, W, 3). `weights`: the checkpoint of a fold; `pixels`: of
    the whole data set. Raises RequestError for a network that has no feature map."""

    def overlay(fold: int, rows: Ints, classes: Ints) -> list[NDArray[np.uint8]]:
        asked = pixels[rows]
        heats = heat_maps([weights(fold)], asked, classes, device)
        return [blended(_grey(asked[i]), heat, OPAQUE) for i, heat in enumerate(heats)]

    return overlay


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.shape[2] == 1:
        return image[..., 0]
    return np.asarray(PIL.Image.fromarray(image).convert("L"))
