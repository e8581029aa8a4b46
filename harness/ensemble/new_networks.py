"""New networks made of members: weight soups, and bagging with retraining.

Weight soup: fine-tunes of one start as ONE network, whose pass costs what a single member's does.

`soup` averages the weights of all members that share a start, `soup-greedy` of those that do each other no harm
(Wortsman et al. 2022).

What is scored out-of-fold is a soup of fold models: soup k, the mean of the members' networks that never saw fold k,
with batch-norm statistics of rows outside of fold k, predicts fold k. The greedy choice for fold k is made on the other
folds' rows. What is kept is, where the members' folds share one start, too, ONE network averaged over the chosen
members and all K folds; the out-of-fold score is then that of its K parts, not its own, and the test split's score is
its own. Where the start differs from fold to fold, the K soups are kept and their mean predicts.

Which fine-tunes go into a soup: the greedy recipe, over anything that says how good a set of them is.

Source: Wortsman et al. 2022, "Model soups", recipe 1. There an ingredient stays where held-out accuracy does not fall;
here where the log-loss does not rise, which moves with every row where accuracy stands still. Knows numbers only.

One network out of several fine-tunes of one start: the mean of their weights, with batch-norm statistics of its own.

Source: Wortsman et al. 2022, "Model soups". Fine-tunes of one start lie in one basin of the loss, so the mean of their
weights is a good network; the mean of weights from different starts is noise. The statistics of batch norm belong to
the activations of one network and are not those of the mean (Izmailov et al. 2018, section 3.2): they are estimated
anew on training rows, not augmented.

Bagging as Breiman meant it: the best trial's configuration trained anew on N bootstrap resamples of the groups.

The one ensemble method that trains. N groups are drawn with replacement from the G groups of the development rows, so
a resample leaves about 37% of them out. Those are its out-of-bag groups: the out-of-bag prediction of a row is the mean
over the networks that did not draw its group, and the ensemble is the mean of all N. By default a group might be in
every resample and would have no such prediction; the last resample is therefore drawn from the groups that another one
leaves out, so with two resamples every row is covered.

Each network is kept when it is done and its state while it trains: a build that was killed goes on where it was.

Which trial is the best was seen on all development rows, as for the best single member; nothing else is chosen. Where
the trial picks its epoch on the rows that it is scored on (train.select: scored_fold), so does every resample, and the
table marks it as optimistic.

Source: Breiman 1996, "Bagging predictors" and "Out-of-bag estimation".

What a method gives that makes networks of its own, instead of combining what the members' networks say.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config.load import build_spec
from harness.config.space import fill
from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.ensemble.bundle_files import Network, NetworkSet
from harness.ensemble.embed import EncoderCache, rows_key
from harness.ensemble.inputs import Gathered
from harness.ensemble.members import best_first
from harness.ensemble.methods import METHODS, by_fold_index
from harness.ensemble.oof import Model, check_probabilities
from harness.errors import HarnessError, RequestError
from harness.hardware import give_back
from harness.images.pixels import Pixels, select
from harness.metrics import METRICS, UNKNOWN, probabilities
from harness.models.network import Network as TorchNetwork
from harness.models.network import require_same_weights
from harness.models.weights import kind_of, load_tensors
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.store.files import is_done, write_bytes
from harness.store.home import Home
from harness.train.batches import prefetched, stream_images, to_input
from harness.train.checkpoint import NO_FOLD, SEVERAL, FoldMeta, digest, load_fold, read_meta, save_weights
from harness.train.cross_validation import Part, read_fold, train_part
from harness.train.inference import INFERENCE_BATCH, infer
from harness.train.optim import estimate_statistics
from harness.train.precision import parse_precision, threads_of
from harness.train.step import in_fitting_batches
from harness.types import Dataset, EpochReport, Folds, Progress, rank_value

LEAST = 1e-7
"""probabilities below this count as this"""

Loss = Callable[[tuple[int, ...]], float]
"""loss(members in rising order) of the soup of these: lower is better"""


def choose_greedily(members: Sequence[int], loss: Loss) -> tuple[int, ...]:
    """The members of the greedy soup, in rising order: from the best by itself on, each one that does no harm.

    Members that are equally good are tried in the order in which they are given.
    """
    alone = {member: loss((member,)) for member in members}
    first, *others = sorted(members, key=lambda member: alone[member])  # stable: ties keep their order
    chosen: tuple[int, ...] = (first,)
    lowest = alone[first]
    for member in others:
        wider = tuple(sorted((*chosen, member)))
        found = loss(wider)
        if found <= lowest:
            chosen, lowest = wider, found
    return chosen


def log_loss(y: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    """Mean log-loss of probabilities (n, C), by class number (n,) or over the known answers of y (n, C)."""
    told = p[np.arange(len(y)), y] if y.ndim == 1 else np.where(y == 1, p, 1.0 - p)[y != UNKNOWN]
    return float(-np.log(np.maximum(told, LEAST)).mean())


STATISTICS_ROWS = 2048
"""training rows, evenly spread, that batch-norm statistics are estimated on: each has many places in a feature map"""


def start_of(metas: Sequence[FoldMeta]) -> tuple[object, ...] | None:
    """What networks of a member must share with another's for their weights to be averaged: the start of each fold, and
    what a checkpoint's tensors do not tell. None where the start is not known."""
    if not all(meta.start_id for meta in metas):
        return None
    first = metas[0]
    starts = {meta.start_id for meta in metas}
    by_fold = tuple(meta.start_id for meta in metas) if len(starts) > 1 else (first.start_id,)
    return (*by_fold, first.model["backbone"], first.model["pooling"], repr(sorted(first.decode.items())))


def largest_shared_start(metas: Sequence[Sequence[FoldMeta]], values: Sequence[float]) -> list[int]:
    """Positions of the members of the largest set with one start; of equally large ones, of that with the best member.

    metas: what each member's fold checkpoints say; values: each member's score, higher is better. Raises RequestError
    where no two members share a start.
    """
    sets: dict[tuple[object, ...], list[int]] = {}
    for member, row in enumerate(metas):
        start = start_of(row)
        if start is not None:
            sets.setdefault(start, []).append(member)
    found = max(sets.values(), key=lambda members: (len(members), max(values[m] for m in members)), default=[])
    if len(found) < 2:
        backbones = ", ".join(sorted({str(row[0].model["backbone"]) for row in metas}))
        raise RequestError(
            f"none of these {len(metas)} members ({backbones}) began at another's weights, and the mean of weights "
            "from different starts is noise. A soup needs two or more trials of one backbone from one start: set "
            "model.backbone to one name and model.weights to pretrained, a file or study:NAME, and train them: "
            "harness study run NAME --as NEWNAME   (or take more members: --top)"
        )
    return found


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors by name, summed in float64; whole numbers (counters of batches) are the first one's.

    Raises HarnessError where names or shapes differ.
    """
    first = states[0]
    shapes = {name: tensor.shape for name, tensor in first.items()}
    if any({name: tensor.shape for name, tensor in state.items()} != shapes for state in states):
        raise HarnessError("checkpoints with different tensors have no mean: they are not of one architecture.")
    return {
        name: (
            (sum((state[name].double() for state in states), torch.zeros(())) / len(states)).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor.clone()
        )
        for name, tensor in first.items()
    }


def disagreeing_norms(network: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> list[_BatchNorm]:
    """The batch-norm layers whose tensors differ between the states: one that is the same in all of them was frozen, or
    there is one state only, and its statistics stay."""

    def differs(layer: str) -> bool:
        names = [name for name in states[0] if name.rpartition(".")[0] == layer]
        floats = [name for name in names if states[0][name].is_floating_point()]
        return any(not torch.equal(state[name], states[0][name]) for state in states[1:] for name in floats)

    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    return [norm for name, norm in norms if norm.running_mean is not None and differs(name)]


def blend(
    weights: Sequence[Path], pixels: Pixels, rows: NDArray[np.int64], device: str, fold: int
) -> tuple[TorchNetwork, FoldMeta]:
    """The soup of some fold checkpoints of one start, in evaluation mode, and what it says about itself.

    rows: training rows of pixels, of which STATISTICS_ROWS give the batch-norm statistics; none may be scored with this
    soup. fold: the one that no ingredient saw, or checkpoint.NO_FOLD. The soup of one checkpoint is that network.
    Raises HarnessError where the checkpoints do not fit each other.
    """
    metas = [read_meta(path) for path in weights]
    if len(weights) == 1:
        network, meta = load_fold(weights[0], device)
        return network, meta
    states = [load_file(path, device="cpu") for path in weights]
    network, first = load_fold(weights[0], device)
    load_tensors(network, average(states))
    network.to(device).to(memory_format=torch.channels_last).eval()
    mean = tuple(np.mean([meta.mean for meta in metas], axis=0).tolist())
    std = tuple(np.mean([meta.std for meta in metas], axis=0).tolist())
    spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_ROWS)).round().astype(np.int64))
    norms = disagreeing_norms(network, states)

    def run(size: int) -> None:
        estimate_statistics(network, norms, _inputs(pixels, rows[spread], mean, std, device, size))

    in_fitting_batches(run, INFERENCE_BATCH, device)
    meta = replace(first, trial=SEVERAL, fold=fold, mean=mean, std=std, encoder_id=digest(network))
    return network, meta


def _inputs(
    pixels: Pixels, rows: NDArray[np.int64], mean: tuple[float, ...], std: tuple[float, ...], device: str, size: int
) -> Iterator[Tensor]:
    """Batches (B, channels, H, W) of `size` of these images as they enter the network."""
    images = stream_images(select(pixels, rows), mean, device)
    for _, x in prefetched(images, images.epoch(torch.arange(len(rows)), size, 0)):
        yield to_input(x, mean, std, torch.channels_last)


@dataclass(frozen=True)
class Made:
    networks: NetworkSet
    """K' checkpoints, whose mean predicts"""
    oof: NDArray[np.float64]
    """(N, C) cross-fitted, as of oof.Fitted; NaN where every network has seen the row"""
    selection: NDArray[np.float64]
    """(N, C) as of oof.Fitted"""
    test: NDArray[np.float64]
    """(T, C) by the networks"""
    model: Model
    """the mean of the networks"""
    each: NDArray[np.float64]
    """(K', T, C) as `test`, by each network alone"""


def assemble(
    networks: NetworkSet,
    oof: NDArray[np.float64],
    selection: NDArray[np.float64],
    cache: EncoderCache,
    dataset: Dataset,
    folds: Folds,
) -> Made:
    """With what the networks say of the test split. Raises HarnessError where that is not finite."""
    model = METHODS["mean"].load({}, len(dataset.classes), dataset.multilabel)
    rows = {"test": folds.test_rows()}
    logits = [cache.outputs(network.meta, network.weights, rows)[0].logits for network in networks.networks]
    said = np.stack(logits)[None]
    test = check_probabilities(model.predict(said, None), f"{networks.name}, test split", dataset.multilabel)
    return Made(networks, oof, selection, test, model, by_fold_index(model, said, None))


FORMAT = 1
"""raise it when a soup of the same checkpoints becomes another one"""


def make_soup(home: Home, found: Gathered, greedy: bool, device: str, progress: Progress) -> Made:
    """Raises RequestError where fewer than two members share a start, HarnessError where a soup gives no finite
    numbers."""
    sign = 1.0 if METRICS[found.metric].higher_is_better else -1.0
    values = [sign * rank_value(member.trial, found.metric) for member in found.members]
    members = largest_shared_start(found.metas, values)
    folds, folder = found.table.k, home.work(found.studies[0].name) / "soups"
    most = (len(members) - 1) * (folds + 1) * folds if greedy else folds
    pots = _Pots(found, folder / "fold_logits", device, most, progress)
    chosen = choose_greedily(members, partial(pots.loss, without=None)) if greedy else tuple(members)
    choices = [choose_greedily(members, partial(pots.loss, without=k)) if greedy else chosen for k in range(folds)]
    oof = pots.out_of_fold(choices)
    selection = pots.out_of_fold([chosen] * folds)
    pots.finished()
    name = "soup-greedy" if greedy else "soup"
    networks = _keep(found, chosen, folder / name, name, device)
    cache = found.outputs.cache(members[0])
    return assemble(networks, oof, selection, cache, found.data.dataset, found.data.folds)


class _Pots:
    """Soups of fold models and what they say of the fold that none of their parts saw, each cooked once and kept."""

    def __init__(self, found: Gathered, folder: Path, device: str, most: int, progress: Progress) -> None:
        """most: soups that will be asked for at most."""
        self._found, self._folder, self._device, self._progress = found, folder, device, progress
        self._known: dict[tuple[tuple[int, ...], int], NDArray[np.float32]] = {}
        self._most = most

    def out_of_fold(self, choices: list[tuple[int, ...]]) -> NDArray[np.float64]:
        """(N, C) probabilities of each fold's rows by the soup of choices[fold] that never saw them."""
        table = self._found.table
        p = np.full((len(table.y), table.classes), np.nan)
        for fold, members in enumerate(choices):
            p[table.fold == fold] = probabilities(self._logits(members, fold), table.multilabel)
        return check_probabilities(p, "soup, out of fold", table.multilabel)

    def loss(self, members: tuple[int, ...], without: int | None) -> float:
        """Log-loss of these members' fold soups over all rows, or those outside of a fold."""
        table = self._found.table
        folds = [fold for fold in range(table.k) if fold != without]
        p = [probabilities(self._logits(members, fold), table.multilabel) for fold in folds]
        y = [table.y[table.fold == fold] for fold in folds]
        return log_loss(np.concatenate(y), np.concatenate(p))

    def finished(self) -> None:
        self._progress("soups of fold models", self._most, self._most)

    def _logits(self, members: tuple[int, ...], fold: int) -> NDArray[np.float32]:
        """(n, C) of the rows of `fold`, in the table's order, by the soup of the members' fold models."""
        if len(members) == 1:
            table = self._found.table
            alone: NDArray[np.float32] = table.logits[table.fold == fold, members[0]]
            return alone
        key = (members, fold)
        if key not in self._known:
            self._known[key] = self._read_or_cook(members, fold)
            self._progress("soups of fold models", len(self._known), self._most)
        return self._known[key]

    def _read_or_cook(self, members: tuple[int, ...], fold: int) -> NDArray[np.float32]:
        found = self._found
        data, pixels = found.data, found.outputs.cache(members[0]).pixels
        rows = data.folds.held_out_rows(fold)
        parts = [found.metas[member][fold].encoder_id for member in members]
        path = self._folder / f"{derive_seed(FORMAT, rows_key(data.dataset, rows), *parts):016x}.npz"
        kept = _read(path, (len(rows), len(data.dataset.classes)))
        if kept is not None:
            return kept
        weights = [found.members[member].weights(fold) for member in members]
        network, meta = blend(weights, pixels, data.folds.train_rows(fold), self._device, fold)
        logits, _ = infer(network, meta, select(pixels, rows), self._device)
        write_bytes(path, pack({"logits": logits}))
        return logits


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        logits: NDArray[np.generic] = unpack(path.read_bytes(), str(path))["logits"]
    except (OSError, RequestError, KeyError):
        return None
    return logits.astype(np.float32, copy=False) if logits.shape == shape else None


def _keep(found: Gathered, chosen: tuple[int, ...], folder: Path, name: str, device: str) -> NetworkSet:
    """Write the soup, or one for each fold, under `folder`, in place of an earlier build's."""
    shutil.rmtree(folder, ignore_errors=True)
    folds, pixels = found.data.folds, found.outputs.cache(chosen[0]).pixels
    one_start = len({meta.start_id for meta in found.metas[chosen[0]]}) == 1
    networks = []
    for fold in [NO_FOLD] if one_start else range(folds.k):
        parts = range(folds.k) if fold == NO_FOLD else [fold]
        weights = [found.members[member].weights(part) for member in chosen for part in parts]
        rows = folds.development_rows() if fold == NO_FOLD else folds.train_rows(fold)
        network, meta = blend(weights, pixels, rows, device, fold)
        path = folder / f"{meta.encoder_id}.safetensors"
        save_weights(path, network, meta)
        networks.append(Network(path, meta))
    trials = [found.names[member] for member in chosen]
    return NetworkSet(name, found.studies[0].name, None, {"soup": trials}, tuple(networks))


RESAMPLES = 10
REDRAWS = 50
"""further draws where a resample holds one class only, or leaves no group out"""


def retrain(home: Home, found: Gathered, resamples: int, seed: int, device: str, progress: Progress) -> Made:
    """Raises RequestError where the trial cannot be trained on other rows than its folds, HarnessError where a training
    fails."""
    best = best_first(found.members, found.metric)[0]
    member, study = found.members[best], next(s for s in found.studies if s.name == found.members[best].study)
    spec = build_spec(fill(study.tree, member.trial.params), f"{found.names[best]} of {study.name}")
    _require_free_start(spec, found.names[best])
    require_same_weights(study.weights, spec.model.weights, spec.model.backbone, study.name)
    precision = study.precision[spec.model.backbone]
    cache = found.outputs.cache(best)
    data = replace(found.data, pixels=cache.pixels)
    rows = data.folds.development_rows()
    drawn = draw_groups(data.dataset.y[rows], data.dataset.groups[rows], resamples, seed)
    folder = home.work(study.name) / "resamples"
    parts = [_part(spec, data, precision, rows, counts, number, folder) for number, counts in enumerate(drawn)]
    epochs = spec.train.epochs

    def on_epoch(report: EpochReport) -> None:
        done = (report.fold - data.folds.k) * epochs + report.epoch + 1
        progress("epochs of the resamples", done, resamples * epochs)

    for number, part in enumerate(parts):
        if is_done(part.folder):
            continue
        try:
            with threads_of(parse_precision(precision)):
                train_part(spec, data, part, study.name, member.number, device, parse_precision(precision), on_epoch)
        except HarnessError as error:
            raise type(error)(f"resample {number} of {found.names[best]}: {error}") from error
        finally:
            give_back()
    oof = _out_of_bag(parts, data)
    networks = [part.folder / "weights.safetensors" for part in parts]
    own = NetworkSet(
        f"{member.name}-resampled",
        study.name,
        member.number,
        member.trial.params,
        tuple(Network(path, read_meta(path)) for path in networks),
    )
    return assemble(own, oof, oof, cache, data.dataset, data.folds)


def draw_groups(y: NDArray[np.int64], groups: NDArray[np.str_], resamples: int, seed: int) -> NDArray[np.int64]:
    """(N, n) how often each of n rows is in each of N group-bootstrap resamples; every group is left out of one.

    y: (n,) or (n, C). Raises RequestError with fewer than two resamples or groups.
    """
    group_of_row = by_appearance(groups)
    number = int(group_of_row.max(initial=-1)) + 1
    if resamples < 2 or number < 2:
        raise RequestError(
            f"{resamples} resamples of {number} groups: out-of-bag predictions need two of each. Type --resamples "
            "10, or another method."
        )
    rng = np.random.default_rng(derive_seed(seed, "resamples"))

    def draw(among: NDArray[np.int64]) -> NDArray[np.int64]:
        """(G,) how often each group is drawn: leaving one out, of two classes where REDRAWS draws find such."""
        kept = np.bincount(among[:1], minlength=number)
        for _ in range(REDRAWS):
            counts = np.bincount(rng.choice(among, size=len(among)), minlength=number)
            if (counts == 0).any():
                kept = counts
                if len(np.unique(y[counts[group_of_row] > 0], axis=0)) > 1:
                    break
        return kept

    everyone = np.arange(number)
    drawn = [draw(everyone) for _ in range(resamples - 1)]
    drawn.append(draw(everyone[np.min(drawn, axis=0) == 0]))
    return np.array([counts[group_of_row] for counts in drawn])


def _require_free_start(spec: Spec, name: str) -> None:
    if kind_of(spec.model.weights) == "study":
        raise RequestError(
            f"{name} starts each fold from the fold of an earlier study that held out the same rows "
            f"(model.weights: {spec.model.weights}). A resample has no such fold: its start would have seen its "
            "out-of-bag rows. Take --method bagging, or a study with model.weights: none, pretrained or a file."
        )


def _part(
    spec: Spec,
    data: Prepared,
    precision: str,
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    number: int,
    folder: Path,
) -> Part:
    """The training of one resample, its folder named by all that its network depends on."""
    part = data.folds.k + number  # so that its random draws are not those of a fold
    key = hashlib.blake2b(digest_size=8)
    key.update(f"{spec.model_dump_json()}\n{data.dataset.data_hash}\n{precision}\n{part}\n".encode())
    key.update(np.repeat(rows, counts).tobytes())
    own = folder / f"resample_{number:02d}-{key.hexdigest()}"
    state = folder / "running" / f"{own.name}.pt"
    return Part(part, NO_FOLD, np.repeat(rows, counts), rows[counts == 0], own, state)


def _out_of_bag(parts: list[Part], data: Prepared) -> NDArray[np.float64]:
    """(N, C) the mean over the networks that never saw the row. Raises HarnessError where a row has none."""
    total = np.zeros((len(data.dataset.ids), len(data.dataset.classes)))
    networks = np.zeros(len(total), dtype=np.int64)
    for part in parts:
        result = read_fold(part.folder, part.number, data)
        if not np.array_equal(np.sort(result.rows), np.sort(part.held_out)):
            shutil.rmtree(part.folder)
            raise HarnessError(f"{part.folder} held the predictions of other rows. Build again: it is trained anew.")
        total[result.rows] += probabilities(result.logits, data.dataset.multilabel)
        networks[result.rows] += 1
    development = data.folds.development_rows()
    seen_by_none = networks[development] == 0
    p = total[development] / np.where(seen_by_none, np.nan, networks[development].astype(np.float64))[:, None]
    return check_probabilities(p, "retrained bagging, out of bag", data.dataset.multilabel)
