"""Number format, layout and compilation: named, and chosen by rule."""

import shutil

import pytest
import torch
from torch import nn

from harness.config.load import build_spec
from harness.errors import HarnessError, RequestError
from harness.train import precision as rule
from harness.train.precision import (
    Precision,
    choose_precision,
    cpu_computes_bf16,
    forward_of,
    parse_precision,
    threads_of,
)

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


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16", False),
    ],
)
def test_a_cpu_says_whether_it_computes_in_bf16(tmp_path, said, wanted) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{said}\nprocessor\t: 1\n{said}\n")
    assert cpu_computes_bf16(tmp_path / "cpuinfo") is wanted
    assert cpu_computes_bf16(tmp_path / "none") is False


@pytest.mark.parametrize(
    ("backbone", "with_bf16", "wanted"),
    [
        ("resnet18", True, "bf16+channels_last"),
        ("vit_tiny_patch16_224", True, "bf16+channels_last"),
        ("mobilenetv3_small_050", True, "fp32+channels_last"),
        ("convnext_atto", True, "fp32+channels_last"),
        ("resnet18", False, "fp32+channels_last"),
    ],
)
def test_the_format_follows_from_network_and_hardware_alone(backbone, with_bf16, wanted, monkeypatch) -> None:
    """Nothing is timed, and nothing is remembered outside the study."""
    monkeypatch.setattr(rule, "cpu_computes_bf16", lambda: with_bf16)
    monkeypatch.setattr("time.perf_counter", None)
    monkeypatch.setattr("time.thread_time", None)
    spec = spec_of(224)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"backbone": backbone})})
    assert str(choose_precision(spec, "cpu")) == wanted


def test_a_named_format_is_taken(monkeypatch) -> None:
    monkeypatch.setattr(rule, "cpu_computes_bf16", lambda: True)
    assert choose_precision(spec_of(precision="fp32"), "cpu") == PLAIN
    assert choose_precision(spec_of(), "cpu") == HALF
    assert choose_precision(spec_of(compile=False), "cpu") == HALF


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


def test_what_does_not_compile_is_refused_before_anything_is_trained(monkeypatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    with pytest.raises(RequestError, match=r"train.compile: true: test_resnet could not be compiled.*false"):
        choose_precision(spec_of(precision="fp32", compile=True), "cpu")
    with pytest.raises(RequestError, match=r"train.compile: true: images of their own sizes"):
        choose_precision(spec_of("native", precision="fp32", compile=True), "cpu")
