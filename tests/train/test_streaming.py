"""Sets that are too large to be held: read from a memory map batch by batch, ahead of the training, byte for byte."""

import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import hardware
from harness.config.spec import Model
from harness.images.pixels import Ragged, Subset, lay_out, select
from harness.models.network import build_network
from harness.train.batches import Square, Streamed, Varied, load_images, prefetched, statistics, stream_images, to_input
from harness.train.checkpoint import FoldMeta
from harness.train.inference import infer

SIDE = 12


@pytest.fixture(params=[1, 3])
def store(request, tmp_path: Path) -> np.memmap:
    """60 images in a file, as the pixel store keeps them."""
    rng = np.random.default_rng(request.param)
    file = tmp_path / "pixels.bin"
    rng.integers(0, 256, (60, SIDE, SIDE, request.param), dtype=np.uint8).tofile(file)
    return np.memmap(file, np.uint8, mode="r", shape=(60, SIDE, SIDE, request.param))


@pytest.fixture
def varied(tmp_path: Path) -> Varied:
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 100, (30, 2))
    rng.integers(0, 256, int(sizes.prod(axis=1).sum()), dtype=np.uint8).tofile(tmp_path / "varied.bin")
    flat = np.memmap(tmp_path / "varied.bin", np.uint8, mode="r")
    made = stream_images(Ragged(flat, lay_out(sizes, 1), sizes, 1), (0.5,))
    assert isinstance(made, Varied)
    return made


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_set_over_the_budget_is_streamed_and_gives_the_same_bytes(store: np.memmap) -> None:
    chosen = np.random.default_rng(1).permutation(60)[:41]
    some = select(store, chosen)
    held = load_images(some, (0.5,), budget=some.nbytes)
    streamed = load_images(some, (0.5,), budget=some.nbytes - 1)
    assert isinstance(held, Square) and isinstance(streamed, Streamed)
    assert np.shares_memory(streamed.pixels.pixels, store)
    order = torch.randperm(41)
    assert [b.tolist() for b in held.epoch(order, 8, 3)] == [b.tolist() for b in streamed.epoch(order, 8, 3)]
    assert [b.tolist() for b in held.in_order(8)] == [b.tolist() for b in streamed.in_order(8)]
    for rows in held.epoch(torch.cat([order, order[:5]]), 8, 3):
        a, b = held.batch(rows), streamed.batch(rows)
        assert a.dtype == b.dtype == torch.uint8 and a.stride() == b.stride() and torch.equal(a, b)
        np.testing.assert_array_equal(b.permute(0, 2, 3, 1), store[chosen[rows.numpy()]])


def test_rows_that_are_not_there_are_refused(store: np.memmap) -> None:
    for rows in ([0, 60], [-1, 3]):
        with pytest.raises(IndexError, match="60 images"):
            select(store, np.array(rows))


def test_statistics_in_chunks_are_those_of_the_whole(store: np.memmap, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = np.arange(5, 50)
    whole = np.array(store[chosen]).reshape(-1, store.shape[-1]) / 255
    at_once = statistics(select(store, chosen))
    monkeypatch.setattr("harness.train.batches.CHUNK_BYTES", 7 * store[0].nbytes)
    in_chunks = statistics(select(store, chosen))
    assert in_chunks == at_once == statistics(np.array(store[chosen]))
    np.testing.assert_allclose(in_chunks[0], whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(in_chunks[1], whole.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["held", "streamed", "varied"])
def test_prefetched_batches_are_the_batches(kind: str, store: np.memmap, varied: Varied) -> None:
    made = {"held": load_images(store, (0.5,)), "streamed": stream_images(store, (0.5,)), "varied": varied}
    images = made[kind]
    n = 30 if kind == "varied" else 60
    order = images.epoch(torch.randperm(n), 8, 1)
    got = [(rows, x.clone(), bool(threads())) for rows, x in prefetched(images, order)]
    assert [rows.tolist() for rows, _, _ in got] == [rows.tolist() for rows in order]
    assert all(torch.equal(x, images.batch(rows)) for rows, x, _ in got)
    assert all(ran == (kind != "held") for _, _, ran in got)
    assert list(prefetched(images, [])) == [] and threads() == []


def test_batches_are_made_while_the_caller_is_busy(store: np.memmap) -> None:
    """The caller waits for the thread to have gathered the next batch: without a thread it would wait in vain."""
    gathered: list[int] = []
    ready = threading.Event()

    class Watched(Subset):
        def gather(self, rows, out=None):
            made = super().gather(rows, out)
            gathered.append(len(rows))
            if len(gathered) == 2:
                ready.set()
            return made

    images = Streamed(Watched(store, np.arange(60)), "cpu")
    batches = prefetched(images, images.in_order(8))
    next(batches)
    assert ready.wait(timeout=20)
    time.sleep(0.05)
    assert len(gathered) <= 3  # and not all of the set: memory holds a few batches
    batches.close()


def test_leaving_the_loop_early_ends_the_thread(store: np.memmap) -> None:
    images = stream_images(store, (0.5,))

    def train() -> None:
        for number, (_, x) in enumerate(prefetched(images, images.in_order(4))):
            assert threads() and len(x) == 4
            if number == 3:
                raise RuntimeError("the loss exploded")

    with pytest.raises(RuntimeError, match="exploded"):
        train()
    assert threads() == []
    for _ in prefetched(images, images.in_order(4)):
        break
    assert threads() == []


def test_what_gathering_raises_reaches_the_caller_at_its_batch(store: np.memmap) -> None:
    images = stream_images(store, (0.5,))
    order = [torch.arange(5), torch.tensor([3, 99]), torch.arange(5)]
    batches = prefetched(images, order)
    assert next(batches)[0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError, match="99"):
        next(batches)
    assert threads() == []


def test_no_batch_stays_alive_after_the_loop(store: np.memmap) -> None:
    images = stream_images(store, (0.5,))
    kept = [weakref.ref(x) for _, x in prefetched(images, images.in_order(8))]
    gc.collect()
    assert len(kept) == 8 and all(ref() is None for ref in kept)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_is_shown_normalised_images_in_the_layout_asked_for(channels, layout) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 9, channels), dtype=np.uint8)
    mean, std = statistics(pixels)
    wanted = (pixels / 255 - np.array(mean)) / np.array(std)
    x = Square(torch.from_numpy(pixels)).batch(torch.arange(5))
    shown = to_input(x, mean, std, layout)
    assert shown.dtype == torch.float32 and shown.shape == (5, channels, 7, 9)
    np.testing.assert_allclose(shown.permute(0, 2, 3, 1).numpy(), wanted, atol=2e-6)
    reference = torch.empty(5, channels, 7, 9).to(memory_format=layout)
    if channels == 3 or layout == torch.contiguous_format:
        assert shown.stride() == reference.stride()
    else:
        assert shown.stride() == (63, 1, 9, 1)
    torch.testing.assert_close(to_input(x.float().div(255), mean, std, layout), shown, atol=2e-6, rtol=0)
    torch.testing.assert_close(shown.mean(dim=(0, 2, 3)), torch.zeros(channels), atol=1e-5, rtol=0)


def test_inference_copies_no_set_and_sees_what_was_asked_for(store: np.memmap, monkeypatch) -> None:
    largest = 0
    gather = Subset.gather

    def watched(self, rows, out=None):
        nonlocal largest
        largest = max(largest, len(rows))
        return gather(self, rows, out)

    channels = store.shape[-1]
    network = build_network(Model(backbone="test_resnet"), 2, channels, SIDE, 0)
    mean, std = statistics(store)
    meta = FoldMeta("s", 0, 0, {}, {}, ("a", "b"), mean, std, "e", "d", "f")
    rows = np.array([50, 3, 4, 59, 0, 17, 18])
    monkeypatch.setattr(Subset, "gather", watched)
    logits, embedded = infer(network, meta, select(store, rows), batch_size=4)
    assert largest == 4
    again, embedded_again = infer(network, meta, np.array(store[rows]), batch_size=4)
    np.testing.assert_array_equal(logits, again)
    np.testing.assert_array_equal(embedded, embedded_again)
    x = torch.from_numpy((store[rows] / 255 - np.array(mean)) / np.array(std)).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        np.testing.assert_allclose(network(x).numpy(), logits, atol=1e-5)


FIRST = "5:cpu:/x\n4:memory:/box/inner\n0::/\n"
LIMITS = {
    "2": ("0::/box/inner\n", "", "memory.max", "memory.current", "inactive_file"),
    "1": (FIRST, "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@pytest.mark.parametrize("version", list(LIMITS))
def test_free_memory_is_what_the_tightest_container_leaves(version: str, tmp_path: Path, monkeypatch) -> None:
    lines, controller, limit, used, cached = LIMITS[version]
    (tmp_path / "cgroup").write_text(lines)
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemFree: 10 kB\nMemAvailable:    2000 kB\n")
    for name, value in (("CGROUPS", tmp_path / "cgroup"), ("MEMINFO", tmp_path / "meminfo"), ("CGROUP_ROOT", tmp_path)):
        monkeypatch.setattr(hardware, name, value)
    assert hardware.free_memory("cpu") == 2000 * 1024
    inner = tmp_path / controller / "box" / "inner"
    inner.mkdir(parents=True)
    for folder, most, now in ((inner, "max", "5000"), (inner.parent, "1000000", "600000")):
        (folder / limit).write_text(most + "\n")
        (folder / used).write_text(now + "\n")
        (folder / "memory.stat").write_text(f"anon 1\n{cached} 50000\n")
    assert hardware.free_memory("cpu") == 1000000 - 600000 + 50000


def test_this_machine_has_some_memory() -> None:
    assert 2**20 < hardware.free_memory("cpu") < 2**50
