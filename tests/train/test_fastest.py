"""Number format, layout, threads and compilation: named, measured once, and compiled only where it pays."""

import json
import shutil

import pytest
import torch
from torch import nn

from harness.errors import HarnessError, RequestError
from harness.study.load import build_spec
from harness.train import fastest
from harness.train.fastest import Measured, choose_precision
from harness.train.precision import Precision, forward_of, parse_precision, threads_of

PLAIN = Precision("fp32", True)
HALF = Precision("bf16", True)


def spec_of(size: int | str = 32, **train):
    tree = {
        "name": "tiny",
        "data": {"root": "phantom", "group": "none", "decode": {"size": size}},
        "model": {"backbone": "test_resnet"},
        "train": {"batch_size": 8, **train},
    }
    return build_spec(tree, "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "harness" / "speed.json"


def test_names_say_everything_and_are_read_back() -> None:
    names = set()
    for name in ("fp32", "bf16", "fp16"):
        for layout in (True, False):
            for compiled in (True, False):
                for threads in (0, 8):
                    precision = Precision(name, layout, compiled, threads)
                    names.add(str(precision))
                    assert parse_precision(str(precision)) == precision
    assert len(names) == 24
    assert str(Precision("bf16", True, True, 8)) == "bf16+channels_last+compiled+8threads"


@pytest.mark.parametrize("text", ["fp8", "", "bf16+channel_last", "bf16+xthreads", "channels_last"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(HarnessError, match=r"bf16\+channels_last"):
        parse_precision(text)


def test_threads_are_those_of_the_precision_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with threads_of(Precision("fp32", True, threads=before + 1)):
        assert torch.get_num_threads() == before + 1
    with threads_of(PLAIN):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def speeds(**values: float) -> Measured:
    return Measured({name.replace("_cl", "+channels_last"): v for name, v in values.items()}, 8, {}, {})


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"fp32_cl": 100, "bf16_cl": 114, "fp32": 129, "bf16": 100}, "fp32+channels_last"),
        ({"fp32_cl": 100, "bf16_cl": 120, "fp32": 129, "bf16": 150}, "bf16+channels_last"),
        ({"fp32_cl": 100, "bf16_cl": 120, "fp32": 90, "bf16": 160}, "bf16"),
        ({"fp32_cl": 100, "bf16_cl": 70, "fp32": 140, "bf16": 60}, "fp32"),
    ],
)
def test_what_is_taken_must_be_clearly_faster(found, wanted) -> None:
    ways = [Precision(name, layout) for layout in (True, False) for name in ("fp32", "bf16")]
    assert str(fastest._pick(ways, speeds(**found))) == wanted
    shuffled = Measured(dict(sorted(speeds(**found).images_per_second.items())), 8, {}, {})
    assert str(fastest._pick(ways, shuffled)) == wanted


def test_the_choice_is_measured_once_and_said(own_cache, monkeypatch) -> None:
    monkeypatch.setattr("harness.train.timing.ENOUGH_SECONDS", 0.1)
    lines: list[str] = []
    first = choose_precision(spec_of(), "cpu", say=lines.append)
    kept = json.loads(own_cache.read_text())
    (key,) = kept
    found = kept[key]["images_per_second"]
    assert {"fp32", "bf16", "fp32+channels_last", "bf16+channels_last"} <= set(found) and min(found.values()) > 0
    assert lines[0].startswith("test_resnet 32 px on one thread: ") and lines[0].endswith(f"trains in {first}")
    assert all(f"{name} {speed:.0f} img/s" in lines[0] for name, speed in found.items())
    kept[key]["images_per_second"] = dict.fromkeys(found, 100.0) | {"bf16+channels_last": 900.0}
    own_cache.write_text(json.dumps(kept))
    assert choose_precision(spec_of(), "cpu") == HALF
    assert choose_precision(spec_of(precision="fp32"), "cpu") == PLAIN
    choose_precision(spec_of(batch_size=9), "cpu")
    assert len(json.loads(own_cache.read_text())) == 2


def test_compiling_must_save_more_than_it_costs(own_cache) -> None:
    """20 ms saved a step, 40 s to compile: from 4,000 steps on it pays twice, with two processes from 8,000 on."""
    measured = Measured({"fp32+channels_last": 160.0}, 8, {"fp32+channels_last": (40.0, 0.050, 0.030)}, {})

    def pays(steps: int, jobs: int = 1, device: str = "cuda", **train) -> bool:
        return fastest._worth_compiling(spec_of(**train), device, PLAIN, steps, jobs, measured)

    assert pays(4100) and not pays(3900)
    assert pays(8100, jobs=2) and not pays(7900, jobs=2)
    assert not pays(10**9, compile=False)
    assert not pays(10**9, size="native")
    assert not pays(10**9, device="cpu")
    assert pays(1, compile=True) and pays(1, compile=True, device="cpu")
    measured.compiled["fp32+channels_last"] = (40.0, 0.050, 0.049)
    assert not pays(10**9)


def test_too_short_a_study_is_not_even_tried() -> None:
    measured = speeds(fp32_cl=160.0)  # 50 ms a step: a hoped-for 20 ms saved, 60 s to compile: from 6,000 steps on
    assert not fastest._worth_compiling(spec_of(), "cuda", PLAIN, 5900, 1, measured)
    assert measured.compiled == {} and measured.failed == {}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(12, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 2)
        self.calls = 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.calls += 1
        return self.head(torch.relu(self.norm(self.hidden(x.mean(dim=(1, 2))))))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_network_trains_the_same_weights_to_nearly_the_same_numbers() -> None:
    torch.manual_seed(0)
    plain, network = Small(), Small()
    network.load_state_dict(plain.state_dict())
    forward = forward_of(network, Precision("fp32", False, compiled=True))
    x, y = torch.randn(8, 3, 12, 12), torch.arange(8) % 2
    for model, call in ((plain, plain), (network, forward)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for size in (8, 8, 5, 8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(call(x[:size]), y[:size]).backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert network.calls == 1  # the batch of 5: nothing is compiled anew for it
    network.eval()
    plain.eval()
    torch.testing.assert_close(forward(x), plain(x), atol=1e-5, rtol=1e-4)
    assert network.calls == 2
    torch.compiler.reset()


def test_without_compiling_the_network_itself_is_called() -> None:
    network = Small()
    assert forward_of(network, HALF) is network


def test_what_does_not_compile_is_refused_only_where_it_was_asked_for(own_cache, monkeypatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    monkeypatch.setattr(fastest, "_network", lambda spec, device: Small())
    monkeypatch.setattr(fastest, "_shape", lambda spec, measured: (8, 3, 12, 12))
    with pytest.raises(RequestError, match=r"train.compile: true: test_resnet could not be compiled.*auto"):
        choose_precision(spec_of(precision="fp32", compile=True), "cpu")
    measured = Measured(**next(iter(json.loads(own_cache.read_text()).values())))
    assert "fp32+channels_last" in measured.failed
    measured.images_per_second["fp32+channels_last"] = 1e-6
    assert not fastest._worth_compiling(spec_of(), "cuda", PLAIN, 10**9, 1, measured)
