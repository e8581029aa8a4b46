"""Fit one fold: epochs, best epoch, early stopping and divergence.

Fit one fold: the training loop, and nothing about files of studies, searches or tracking.

Every epoch draws from seeds of its own (order, augmentation, mixing, dropout), so the state after epoch e and the
number e are all that a resumed training needs. n: training rows, v: held-out rows, S: side, B: batch.

What goes into the training of one fold, and what comes out of it. n: training rows, v: held-out rows, S: side.

Which epoch's weights a fold keeps: the last, or the best by scores that something else was held out for.

A training that has come apart: a loss that is no number, or absurdly large. Knows arrays only.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.augment.pipeline import draw_mix
from harness.augment.sampling import changes_anything, draw
from harness.config.spec import Spec, Train
from harness.errors import HarnessError
from harness.hardware import algorithms, keep_freed_memory
from harness.images.pixels import Selection
from harness.metrics import METRICS
from harness.models.network import Network, build_network
from harness.models.stages import freeze, layers, training_mode
from harness.seeds import derive_seed
from harness.train.batches import Images, fetch, load_images, own_sizes, prefetched, row_order, statistics, to_input
from harness.train.checkpoint import ResumeState, digest
from harness.train.inference import predict, scores
from harness.train.loss import build_loss
from harness.train.optim import Average, add_trainable, build_average, build_optimizer, frozen_stages, learning_rate
from harness.train.precision import Precision, forward_of
from harness.train.step import Batch, Stepper, in_fitting_batches
from harness.types import EpochReport


@dataclass(frozen=True)
class FoldData:
    """One fold's rows as arrays."""

    fold: int
    x_train: Selection
    """n images: (n, S, S, channels), or of their own sizes"""
    y_train: NDArray[np.int64]
    """(n,) class numbers, or (n, classes) answers of a multi-label task"""
    x_val: Selection
    """v images"""
    y_val: NDArray[np.int64]
    classes: int
    class_names: tuple[str, ...] = ()
    """in the order of the class numbers: a head is started from an earlier study's only where these agree"""
    x_inner: Selection | None = None
    """the inner part of the training rows that chooses the epoch; not trained on (train.select: inner)"""
    y_inner: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Fitted:
    network: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    history: list[dict[str, Any]]
    epoch: int
    """whose weights these are"""
    seconds: float
    """training and validation, over all epochs, resumed ones included"""
    images: int
    """training images seen over all epochs"""
    start_id: str
    """digest of the weights before the first step: only networks with one start have weights that may be averaged"""


OnEpoch = Callable[[EpochReport], None]
"""Called after each epoch; may raise to stop the training, which then ends before its next step and leaves no state."""


def fit_fold(
    spec: Spec,
    data: FoldData,
    device: str,
    precision: Precision,
    resume: ResumeState,
    on_epoch: OnEpoch,
    start: Path | None = None,
) -> Fitted:
    """Train a network on one fold's training rows and report on its held-out rows after every epoch.

    `start` is the checkpoint of an earlier study that the weights start from. Which epoch's weights are returned is
    train.select's choice: by default the last, so that the held-out rows choose nothing.
    Raises Diverged when the loss is not finite or explodes, OutOfMemory, and whatever `on_epoch` raises.
    """
    keep_freed_memory()
    with algorithms(spec.train.deterministic):
        return _Fold(spec, data, device, precision, resume, start).fit(on_epoch)


@dataclass(frozen=True)
class _Unread:
    """What an epoch left behind: read() gives each step's summed loss and weights, the held-out rows' logits and loss,
    and the inner rows', where there are any."""

    epoch: int
    rates: list[float]
    parts: int
    read: Callable[[], list[NDArray[np.floating]]]


class _Fold:
    """A fold being trained: what is built once, and what changes from epoch to epoch."""

    def __init__(
        self, spec: Spec, data: FoldData, device: str, precision: Precision, resume: ResumeState, start: Path | None
    ) -> None:
        self.began = self.last = time.perf_counter()
        self.spec, self.data, self.device, self.resume = spec, data, device, resume
        decode, train = spec.data.decode, spec.train
        # fine-tunes of one study begin at one point, head included, so that their weights may be averaged
        own: tuple[str | int, ...] = ("fold", data.fold) if spec.model.weights == "none" else ()
        seed = derive_seed(spec.seed, *own, "weights")
        self.network = build_network(
            spec.model, data.classes, decode.channels, decode.side, seed, start, data.class_names
        )
        self.start_id = digest(self.network)
        self.network.to(device).to(memory_format=precision.layout)
        freeze(self.network, train.freeze)
        self.layers = layers(self.network)
        optimizer = build_optimizer(self.network, spec.optim, self.layers)
        self.average: Average | None = build_average(self.network, train)
        self.mean, self.std = statistics(data.x_train)
        self.x_train, self.y_train = self._load(data.x_train, data.y_train)
        self.x_val, self.y_val = self._load(data.x_val, data.y_val)
        self.inner = None if data.x_inner is None or data.y_inner is None else self._load(data.x_inner, data.y_inner)
        self.stepper = Stepper(
            spec,
            self.network,
            forward_of(self.network, precision),
            build_loss(data.y_train, data.classes, train, device),
            optimizer,
            torch.amp.GradScaler(device.split(":")[0], enabled=precision.name == "fp16"),
            precision,
            self.mean,
            self.std,
            device,
        )
        self.keeper = Keeper(train)
        self.history: list[dict[str, Any]] = []
        self.unheard = False
        self.before = 0.0
        self._resume()
        n, batch = len(data.y_train), train.batch_size
        batches = len(self.x_train.epoch(torch.arange(n), batch, 0))
        self.steps = train.epochs * math.ceil(batches / train.accumulate)

    def _load(self, x: Selection, y: NDArray[np.int64]) -> tuple[Images, Tensor]:
        return load_images(x, self.mean, self.device), torch.from_numpy(y.copy()).to(self.device)

    def _resume(self) -> None:
        """Go back to the state after the last finished epoch, if there is one."""
        state = self.resume.load(self.device)
        if state is None:
            return
        self.history, self.before, self.unheard = state["history"], state["seconds"], not state["heard"]
        for epoch in range(1, len(self.history)):  # what thawed since, in the order in which the optimiser got it
            self._thaw(epoch)
        self.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.stepper.parts = state["parts"]
        self.keeper.load(state["keeper"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def fit(self, on_epoch: OnEpoch) -> Fitted:
        """Train to the end. While an epoch is scored and reported, by a thread, the next one trains already, unless it
        depends on those scores."""
        epochs, done = self.spec.train.epochs, len(self.history)
        waits = self.keeper.chooses or self.spec.optim.schedule == "plateau"
        with ThreadPoolExecutor(1, thread_name_prefix="report") as reporter:
            reported: Future[None] = reporter.submit(lambda: None)
            try:
                if self.unheard:
                    on_epoch(EpochReport(**self.history[-1]))
                for epoch in range(done, epochs):
                    if self.keeper.stopped:
                        break
                    unread = self._train(epoch, reported)
                    reported.result()
                    if waits:
                        report = self._finish(unread)
                        self._keep_state()
                        self._complete(epoch, report, on_epoch)
                    else:
                        self._keep_state()
                        reported = reporter.submit(self._report, unread, on_epoch)
                reported.result()
            except KeyboardInterrupt:
                wait([reported])
                self.resume.write()
                raise
        network = self._shown(epochs - 1)
        self.keeper.restore(network)
        trained = len(self.history)
        return Fitted(
            network,
            self.mean,
            self.std,
            self.history,
            self.keeper.epoch if self.keeper.epoch is not None else trained - 1,
            self.before + time.perf_counter() - self.began,
            len(self.data.y_train) * trained,
            self.start_id,
        )

    def _train(self, epoch: int, reported: "Future[None]") -> _Unread:
        """Train one epoch and show the network the held-out rows. What came out may still be being computed. Ends early
        where the report of the epoch before raises."""
        train, optim = self.spec.train, self.spec.optim
        seed = derive_seed(self.spec.seed, "fold", self.data.fold, "epoch", epoch)
        torch.manual_seed(seed)
        self._thaw(epoch)
        training_mode(self.network, frozen_stages(train, epoch))
        plateau = optim.schedule == "plateau"
        monitored = [entry["inner_loss" if self.inner else "train_loss"] for entry in self.history] if plateau else []
        steps = itertools.count(epoch * (self.steps // train.epochs))
        rates, values, weights = [], [], []
        for batches in _grouped(self._batches(seed), train.accumulate):
            rates.append(learning_rate(optim, next(steps), self.steps, monitored))
            if reported.done():
                reported.result()
            value, weight = self.stepper.take(batches, rates[-1])
            values.append(value)
            weights.append(weight)
            if self.average is not None:
                self.average.after_step()
        if self.average is not None:
            self.average.after_epoch(epoch)
            if epoch + 1 == train.epochs:
                average = self.average
                in_fitting_batches(lambda size: average.finish(self._plain_inputs(size)), train.batch_size, self.device)
        found = [torch.stack(values), torch.stack(weights)]
        for images, y in [(self.x_val, self.y_val), *([self.inner] if self.inner else [])]:
            found += self._predict(images, y, epoch)
        return _Unread(epoch, rates, self.stepper.parts, fetch(found))

    def _report(self, unread: _Unread, on_epoch: OnEpoch) -> None:
        self._complete(unread.epoch, self._finish(unread), on_epoch)

    def _finish(self, unread: _Unread) -> EpochReport:
        """Read and score an epoch, and write it into the history."""
        values, weights, logits, loss, *more = unread.read()
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        val = scores(self.data.y_val, logits, loss)
        inner = scores(self.data.y_inner, *more) if self.data.y_inner is not None else None
        classes = self.data.classes if self.data.y_train.ndim == 1 else 2
        place = f"fold {self.data.fold}, epoch {unread.epoch}"
        report = EpochReport(
            fold=self.data.fold,
            epoch=unread.epoch,
            epochs=self.spec.train.epochs,
            train_loss=epoch_loss(values, weights, unread.rates, classes, place),
            val_loss=val.loss,
            val=val.metrics,
            inner_loss=inner.loss if inner else None,
            inner=inner.metrics if inner else None,
            lr=unread.rates[-1],
            parts=unread.parts,
            seconds=seconds,
            images=len(self.data.y_train),
        )
        self.history.append({**vars(report)})
        self.keeper.see(unread.epoch, (inner or val).metrics, self._shown(unread.epoch))
        return report

    def _complete(self, epoch: int, report: EpochReport, on_epoch: OnEpoch) -> None:
        """Report an epoch; then its state may be written. One whose report was cut off is reported again on resuming,
        so that what is decided on it is decided."""
        try:
            on_epoch(report)
        except KeyboardInterrupt:
            self._complete_state(epoch, heard=False)
            raise
        self._complete_state(epoch, heard=True)

    def _complete_state(self, epoch: int, heard: bool) -> None:
        if epoch + 1 < self.spec.train.epochs and not self.keeper.stopped:
            seconds = self.before + time.perf_counter() - self.began
            self.resume.complete(epoch, list(self.history), seconds, heard)

    def _batches(self, seed: int) -> Iterator[Batch]:
        """The epoch's batches with all that is drawn for them."""
        train, augment = self.spec.train, self.spec.augment
        draws = torch.Generator().manual_seed(derive_seed(seed, "augment"))
        mixes = torch.Generator().manual_seed(derive_seed(seed, "mix"))
        rows = row_order(self.data.y_train, train.sampling, derive_seed(seed, "order"))
        order = self.x_train.epoch(rows, train.batch_size, derive_seed(seed, "batches"))
        for part, x in prefetched(self.x_train, order):
            height, width = x.shape[-2:]
            drawn = draw(len(part), draws) if changes_anything(augment) else None
            mix = draw_mix(len(part), height, width, augment, mixes, self.device)
            sizes = own_sizes(self.x_train, part)
            yield Batch(x, self.y_train[part], drawn, mix, sizes)

    def _plain_inputs(self, batch_size: int) -> Iterator[Tensor]:
        """The training rows as they are, for batch-norm statistics of averaged weights."""
        layout = self.stepper.precision.layout
        order = self.x_train.epoch(torch.arange(len(self.y_train)), batch_size, 0)
        for _, x in prefetched(self.x_train, order):
            yield to_input(x, self.mean, self.std, layout)

    def _thaw(self, epoch: int) -> None:
        """Gradual unfreezing: what trains from this epoch on."""
        level = frozen_stages(self.spec.train, epoch)
        if epoch and level != frozen_stages(self.spec.train, epoch - 1):
            freeze(self.network, level)
            add_trainable(self.stepper.optimizer, self.network, self.spec.optim, self.layers)

    def _shown(self, epoch: int) -> Network:
        """The network to score and keep: the averaged one where weights are averaged.

        SWA's has its batch-norm statistics only in the end, so that before the last epoch the trained one is shown.
        """
        averaged = self.spec.train.ema > 0 or epoch + 1 == self.spec.train.epochs
        return self.network if self.average is None or not averaged else self.average.network()

    def _predict(self, images: Images, y: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        network, step = self._shown(epoch), self.stepper
        forward = step.forward if network is self.network else network
        network.eval()
        return predict(forward, self.data.classes, images, y, self.mean, self.std, step.precision, step.loss)

    def _keep_state(self) -> None:
        self.resume.keep(
            {
                "network": self.network.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "keeper": self.keeper.state(),
                "parts": self.stepper.parts,
            }
        )


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(batches, size)):
        yield group


class Keeper:
    """The best epoch so far, its weights, and whether to go on.

    With `select: last` it keeps nothing and never stops.
    """

    def __init__(self, train: Train) -> None:
        self._train = train
        self._sign = 1.0 if METRICS[train.monitor].higher_is_better else -1.0
        self.epoch: int | None = None
        self.value = math.nan
        self.weights: dict[str, Tensor] = {}
        self.stopped = False

    @property
    def chooses(self) -> bool:
        return self._train.select != "last"

    def see(self, epoch: int, scores: dict[str, float], network: nn.Module) -> None:
        """Look at a finished epoch. A score that is not defined is never better than one that is."""
        if not self.chooses:
            return
        value = scores[self._train.monitor]
        first, defined = self.epoch is None, math.isfinite(value)
        if first or (defined and not self._sign * (self.value - value) >= 0):
            self.epoch, self.value = epoch, value
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        assert self.epoch is not None
        self.stopped = 0 < self._train.patience <= epoch - self.epoch

    def restore(self, network: nn.Module) -> None:
        """Give the network the kept weights."""
        if self.weights:
            network.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "value": self.value, "weights": self.weights, "stopped": self.stopped}

    def load(self, state: dict[str, Any]) -> None:
        self.epoch, self.value = state["epoch"], state["value"]
        self.weights, self.stopped = dict(state["weights"]), state["stopped"]


EXPLODED = 1000.0
"""a mean loss of so many times that of a guess (the logarithm of the number of classes) has exploded"""


class Diverged(HarnessError):
    """The loss became NaN, infinite or absurdly large."""


def epoch_loss(
    values: NDArray[np.floating], weights: NDArray[np.floating], rates: list[float], classes: int, place: str
) -> float:
    """An epoch's mean loss over rows, from each step's summed loss (steps,), summed weights (steps,) and learning rate.

    `classes` a guess chooses between; `place` is said in the message. Raises Diverged, naming the first step that is
    not finite, or in an epoch that exploded the first step that did.
    """
    losses = values / np.maximum(weights, 1e-12)
    mean = math.fsum(values) / max(math.fsum(weights), 1e-12)
    absurd = EXPLODED * math.log(max(2, classes))
    bad = np.flatnonzero(~np.isfinite(losses) | ((losses > absurd) & (not mean <= absurd)))
    if len(bad):
        step = int(bad[0])
        raise Diverged(
            f"the training loss became {losses[step]:.3g} in {place}, step {step}, at a learning rate of "
            f"{rates[step]:.3g}. Use a lower optim.lr, or optim.clip=1."
        )
    return mean
