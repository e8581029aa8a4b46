"""Ranges under conditions: order, chains, defaults, round trip, and what is refused."""

import pytest

from harness.config.load import check_study, dump_yaml, key_defaults, load_study, spec_hash
from harness.config.space import flatten, probes
from harness.errors import RequestError

LR = {"float": [1e-4, 1e-2], "log": True}


def tree(optim, **blocks):
    return {"name": "s", "data": {"root": "phantom", "group": "patient"}, "optim": {"lr": LR, **optim}, **blocks}


CHAIN = {
    "nesterov": {"choice": [True, False], "when": {"optim.name": "sgd", "optim.schedule": ["step", "cosine"]}},
    "warmup": {"float": [0.0, 0.3], "when": {"optim.schedule": "cosine"}},
    "schedule": {"choice": ["constant", "step", "cosine"], "when": {"optim.name": ["sgd", "lamb"]}},
    "name": {"choice": ["adamw", "sgd", "lamb"]},
}


def test_what_a_condition_asks_for_comes_first_and_defaults_stand_where_it_does_not_hold():
    study = check_study(tree(CHAIN), "here")
    names = list(study.space)
    assert names.index("optim.name") < names.index("optim.schedule") < names.index("optim.warmup")
    values = {"optim.lr": 1e-3, "optim.name": "adamw", "optim.schedule": "step", "optim.warmup": 0.2}
    plain = flatten(study.fill({**values, "optim.nesterov": True}))
    default = key_defaults()["optim.schedule"]
    assert plain["optim.schedule"] == default == "cosine"
    # the condition of the warm-up looks at the schedule that stands, which is the default here
    assert plain["optim.warmup"] == 0.2 and plain["optim.nesterov"] == key_defaults()["optim.nesterov"]
    step = flatten(study.fill({**values, "optim.name": "sgd", "optim.nesterov": True}))
    assert (step["optim.schedule"], step["optim.warmup"], step["optim.nesterov"]) == (
        "step", key_defaults()["optim.warmup"], True,
    )  # fmt: skip


def test_every_range_is_checked_where_it_stands():
    study = check_study(tree(CHAIN), "here")
    seen = {(name, study.fill(point)["optim"][name.split(".")[1]]) for point in probes(study.space) for name in point}
    for name, range_ in study.space.items():
        ends = range_.options if hasattr(range_, "options") else (range_.low, range_.high)
        assert {(name, end) for end in ends} <= seen
    broken = {"name": {"choice": ["adamw", "sgd"]}, "momentum": {"float": [0.5, 1.5], "when": {"optim.name": "sgd"}}}
    with pytest.raises(RequestError, match=r"optim.momentum.*less than 1"):
        check_study(tree(broken), "here")


def test_a_study_with_conditions_survives_being_written(tmp_path):
    study = check_study(tree(CHAIN), "here")
    (tmp_path / "s.yaml").write_text(dump_yaml(study.tree))
    again = load_study(str(tmp_path / "s.yaml"))
    assert (again.space, again.tree) == (study.space, study.tree)
    assert spec_hash(again.tree) == spec_hash(study.tree)
    other = check_study(tree({**CHAIN, "warmup": {"float": [0.0, 0.3]}}), "here")
    assert spec_hash(other.tree) != spec_hash(study.tree)


def test_a_range_that_never_stands_is_no_part_of_the_space(tmp_path):
    momentum = {"float": [0.5, 0.9], "when": {"optim.name": "sgd"}}
    study = check_study(tree({"name": "adamw", "momentum": momentum}), "here")
    assert list(study.space) == ["optim.lr"] and study.tree["optim"]["momentum"] == key_defaults()["optim.momentum"]
    (tmp_path / "s.yaml").write_text(dump_yaml(tree({"name": {"choice": ["adamw", "sgd"]}, "momentum": momentum})))
    narrowed = load_study(str(tmp_path / "s.yaml"), ["optim.name=sgd"])
    assert list(narrowed.space) == ["optim.lr", "optim.momentum"]


@pytest.mark.parametrize(
    ("optim", "said"),
    [
        ({"momentum": {"float": [0.5, 0.9], "when": {"optim.nam": "sgd"}}}, r"no such key. Did you mean optim.name"),
        ({"momentum": {"float": [0.5, 0.9], "when": {"optim.lr": 1e-3}}}, r"optim.lr is a range of numbers"),
        ({"momentum": {"float": [0.5, 0.9], "when": "sgd"}}, r"optim.momentum.when: write a key and its value"),
        ({"momentum": {"float": [0.5, 0.9], "when": {"optim.name": []}}}, r"one value or a list of values"),
        (
            {**CHAIN, "momentum": {"float": [0.5, 0.9], "when": {"optim.name": "sdg"}}},
            r"optim.name is never 'sdg'. Did you mean sgd. It is one of adamw, sgd, lamb",
        ),
        (
            {
                "name": {"choice": ["adamw", "sgd"], "when": {"optim.schedule": "cosine"}},
                "schedule": {"choice": ["cosine", "step"], "when": {"optim.name": "sgd"}},
            },
            r"optim.name -> optim.schedule -> optim.name: each of these conditions waits",
        ),
    ],
)
def test_conditions_that_are_mistakes_are_refused(optim, said):
    with pytest.raises(RequestError, match=said):
        check_study(tree(optim), "here")
