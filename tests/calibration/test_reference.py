"""The reference of usual images: against an independent Mahalanobis distance, leak-free percentiles, false alarms."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from harness.calibration.uncertainty import HeldOut, fit_reference, read_reference, reference_file
from harness.errors import HarnessError, RequestError
from harness.store.arrays import pack, unpack

K, D = 3, 12


def simulated(n, rng, members=1, noise=0.5, shift=0.0):
    """Embeddings of n images by (member, fold): a common part that the image decides, and each encoder's own noise.
    The mixing of an encoder is its own, too: spaces differ."""
    y = rng.integers(0, 2, n)
    common = rng.normal(size=(n, D)) * np.linspace(0.3, 2, D) + 3 * y[:, None] + shift
    found = {}
    for m in range(members):
        for k in range(K):
            mixing = np.random.default_rng(100 * m + k).normal(size=(D, D))
            found[m, k] = (common + noise * rng.normal(size=(n, D))) @ mixing
    return y, found


def fitted(n=600, members=1, seed=0, groups=None):
    rng = np.random.default_rng(seed)
    y, embeddings = simulated(n, rng, members)
    fold = np.arange(n) % K
    held_out = [
        HeldOut((m, k), np.flatnonzero(fold == k), x[fold == k].astype(np.float32)) for (m, k), x in embeddings.items()
    ]
    return (*fit_reference(held_out, y, np.arange(n).astype(str) if groups is None else groups, 0), held_out, y)


def test_the_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance():
    """All directions fit into what is kept (D < DIRECTIONS), so nothing is approximate; checked with scikit-learn."""
    reference, _, held_out, y = fitted()
    one = held_out[1]
    x, classes = one.embeddings.astype(np.float64), y[one.rows]
    centres = np.stack([x[classes == c].mean(axis=0) for c in (0, 1)])
    precision = LedoitWolf(assume_centered=True).fit(x - centres[classes]).precision_
    new = np.random.default_rng(5).normal(size=(40, D)) * 4
    squared = np.stack([np.einsum("nd,de,ne->n", new - c, precision, new - c) for c in centres]).min(axis=0)
    space = reference.spaces[0, 1]
    np.testing.assert_allclose(space.distance(new), (np.log(squared) - space.mean) / space.spread, rtol=1e-5)


def test_cut_to_few_directions_the_total_variance_stays(monkeypatch):
    from harness.calibration import uncertainty as module

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 40)) * np.linspace(0.1, 3, 40), np.zeros(50, np.int64)
    monkeypatch.setattr(module, "DIRECTIONS", 5)
    _centres, directions, variances, rest = module._describe(x, y)
    covariance = LedoitWolf(assume_centered=True).fit(x - x.mean(axis=0)).covariance_
    assert directions.shape == (5, 40)
    np.testing.assert_allclose(variances.sum() + rest * 35, np.trace(covariance), rtol=1e-9)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(covariance)[::-1][:5], rtol=1e-9)


def test_development_percentiles_are_uniform_and_leak_free():
    """Few rows and many dimensions: distances to statistics that a row itself made would be far too small."""
    rng = np.random.default_rng(1)
    rows, size = 40, 60
    x, y, groups = rng.normal(size=(rows, size)), np.zeros(rows, np.int64), np.arange(rows).astype(str)
    reference, own = fit_reference([HeldOut((0, 0), np.arange(rows), x.astype(np.float32))], y, groups, 0)
    np.testing.assert_allclose(np.sort(own), (np.arange(rows) + 0.5) / rows, atol=1e-9)
    seen = reference.percentile(reference.distance(lambda m, k: x))
    new = reference.percentile(reference.distance(lambda m, k: rng.normal(size=(2000, size))))
    assert seen.mean() < 0.3  # what the final statistics say of the rows they were fitted to: all look usual
    assert 0.35 < new.mean() < 0.65  # rows like them that nobody saw


def test_a_group_is_never_measured_by_its_own_rows():
    """Each group is one far point repeated: seen by its own statistics it would be the nearest of all."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), 4).astype(str)
    x = np.repeat(rng.normal(size=(30, D)), 4, axis=0)
    x[:4] += 50
    _, own = fit_reference([HeldOut((0, 0), np.arange(120), x.astype(np.float32))], np.zeros(120, np.int64), groups, 0)
    assert (own[:4] > 0.95).all()


@pytest.mark.parametrize("members", [1, 3])
def test_false_alarms_are_at_most_as_many_as_said_and_foreign_images_are_found(members):
    """Over many draws of a development set: at the 95th percentile up to 5 % of home images, but not none."""
    alarms, found = [], []
    for seed in range(12):
        reference, _, _, _ = fitted(300, members, seed)
        rng = np.random.default_rng(1000 + seed)
        _, home = simulated(1000, rng, members)
        _, foreign = simulated(200, rng, members, shift=6.0)
        alarms.append((reference.percentile(reference.distance(lambda m, k, x=home: x[m, k])) > 0.95).mean())
        found.append((reference.percentile(reference.distance(lambda m, k, x=foreign: x[m, k])) > 0.95).mean())
    assert 0.015 < np.mean(alarms) < 0.055
    assert np.mean(found) > 0.9


def test_one_fold_model_alone_has_the_promised_rate():
    """Without a mean over folds nothing is conservative: 5 % of home images, within the error of 20 x 1000 draws."""
    rates = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(400, D)), np.zeros(400, np.int64)
        reference, _ = fit_reference(
            [HeldOut((0, 0), np.arange(400), x.astype(np.float32))], y, np.arange(400).astype(str), 0
        )
        new = rng.normal(size=(1000, D))
        rates.append((reference.percentile(reference.distance(lambda m, k, new=new: new)) > 0.95).mean())
    assert 0.035 < np.mean(rates) < 0.06


def test_the_file_says_the_same_and_is_small():
    reference, _, held_out, _ = fitted(members=2)
    again = read_reference(reference_file(reference), "reference.npz")
    x = {one.encoder: np.random.default_rng(3).normal(size=(50, D)) * 3 for one in held_out}
    before, after = (r.percentile(r.distance(lambda m, k: x[m, k])) for r in (reference, again))
    np.testing.assert_allclose(before, after, atol=1e-9)
    assert again.rows == 600 and len(again.spaces) == 2 * K
    big = HeldOut((0, 0), np.arange(300), np.random.default_rng(0).normal(size=(300, 2048)).astype(np.float32))
    wide, _ = fit_reference([big], np.zeros(300, np.int64), np.arange(300).astype(str), 0)
    assert len(reference_file(wide)) < 0.7e6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("0_0_directions", np.zeros((2, 5))),
        ("0_0_variances", np.zeros(D)),
        ("0_0_scale", np.array([1.0, 0.0, -1.0])),
        ("usual", np.array([2.0, 1.0])),
        ("0_0_centres", None),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(name, value):
    arrays = unpack(reference_file(fitted()[0]), "x")
    arrays[name] = value
    if value is None:
        del arrays[name]
    with pytest.raises(RequestError, match=r"reference\.npz does not fit together"):
        read_reference(pack(arrays), "reference.npz")
    with pytest.raises(RequestError, match="cannot be read"):
        read_reference(b"no archive", "reference.npz")


def test_too_few_rows_are_said():
    x = np.zeros((5, D), np.float32)
    with pytest.raises(HarnessError, match=r"fold 2 has 5 rows.*--no-reference"):
        fit_reference([HeldOut((0, 2), np.arange(5), x)], np.zeros(5, np.int64), np.arange(5).astype(str), 0)
    with pytest.raises(HarnessError, match="1 groups"):
        fit_reference([HeldOut((0, 0), np.arange(9), np.ones((9, D)))], np.zeros(9, np.int64), np.repeat("a", 9), 0)
    with pytest.raises(HarnessError, match="the same embedding"):
        fit_reference(
            [HeldOut((0, 0), np.arange(20), np.ones((20, D)))], np.zeros(20, np.int64), np.arange(20).astype(str), 0
        )
