"""Labels that nothing can know: whatever is chosen and fitted on them, its nested and test scores are at chance."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from simulated_members import Simulated

from harness.ensemble.inputs import Pool, choose_without, cross_fitted_oof, embed_of, only
from harness.ensemble.methods import METHODS
from harness.ensemble.oof import Embed
from harness.metrics import METRICS

AUROC = METRICS["auroc"].of
POOL, TOP = 8, 3


def seeds(method: str) -> int:
    """Heads and trees on embeddings take their time."""
    return 3 if METHODS[method].needs_embeddings else 8


@dataclass(frozen=True)
class Outputs:
    """Embeddings of simulated encoders, asked for as those of a study are."""

    held_out_embeddings: Embed
    development_embeddings: Embed


@dataclass(frozen=True)
class Member:
    study: str = "s"


def pool_of(simulated: Simulated, chosen: tuple[int, ...]) -> Pool:
    outputs = Outputs(simulated.embed, simulated.embed)
    return Pool(tuple(Member() for _ in range(POOL)), simulated.table, outputs, chosen, {})  # type: ignore[arg-type]


@cache
def scored(method: str, signal: float) -> tuple[float, float, float]:
    """Mean over seeds of the AUROC of selection, nested and test, of the method over the best 3 of 8 trials."""
    found = []
    for seed in range(seeds(method)):
        simulated = Simulated(seed, signal, groups=80, members=POOL, test=150)
        table = simulated.table
        values = [AUROC(table.y, table.logits[:, m].astype(float), None)[0] for m in range(POOL)]
        chosen = tuple(sorted(np.argsort(values)[-TOP:].tolist()))
        pool = pool_of(simulated, chosen)
        choices = choose_without(pool, "auroc", TOP)
        assert choices is not None
        this = METHODS[method]
        fitted = this.fit(only(table, chosen), embed_of(pool, this, chosen), seed, None)
        nested = cross_fitted_oof(pool, this, choices, fitted.oof, seed, lambda *_: None)
        embed_test = simulated.embed_test
        test = fitted.model.predict(
            simulated.test_logits[list(chosen)], lambda m, k, chosen=chosen, of=embed_test: of(chosen[m], k)
        )
        three = [(table.y, fitted.selection), (table.y, nested), (simulated.y_test, test)]
        found.append([AUROC(y, p, None)[0] for y, p in three])
    selection, nested_score, test_score = np.mean(found, axis=0)
    return float(selection), float(nested_score), float(test_score)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nested_and_test_scores_are_at_chance(method: str) -> None:
    """160 rows: an AUROC's standard deviation is .046, and four of them for the mean over seeds are allowed. Nested
    and out-of-bag scores of noise lie below chance rather than above it: a row that is left out makes its own class
    rarer among the others (Parker, Guenter, Bedo 2007, "Stratification bias in low signal microarray studies"), most in
    small folds."""
    _, nested, test = scored(method, 0.0)
    allowed = 4 * 0.046 / np.sqrt(seeds(method))
    assert 0.37 < nested < 0.5 + allowed
    assert abs(test - 0.5) < allowed


@pytest.mark.parametrize("method", ["mean", "weighted", "greedy", "stacking"])
def test_the_selection_score_is_above_them(method: str) -> None:
    """The three luckiest of eight noises: their own rows say they are something."""
    selection, nested, _ = scored(method, 0.0)
    assert selection > 0.53 and selection - nested > 0.04


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_can_be_known_is_found_nested_and_on_the_test_split(method: str) -> None:
    """The chance above is not that of a score that finds nothing."""
    _, nested, test = scored(method, 1.0)
    assert nested > 0.7 and test > 0.7
