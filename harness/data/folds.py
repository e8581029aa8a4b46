"""Who is held out from whom: a test split and K folds, stratified by class, never splitting a group.

Made once per study and stored; every trial and ensemble uses the same. Groups are told apart by where they first
appear, never by their names, so that another salt of the group hashes gives the same folds. Knows arrays only: no
files, no images, no torch, no scikit-learn.

How a deal is found: one pass gives each group to the part that lacks most of what the group has, then single moves
and swaps of groups lower the imbalance until none does, or the budget is spent. Over random group structures this is
closer in class shares and in rows than scikit-learn's StratifiedGroupKFold; tests/data/test_folds.py compares them.

N: rows, G: groups, C: classes, J: parts, F: things to balance, U: kinds of groups (equal counts of every class).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.types import TEST, Folds

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

ROWS, SHARE, SPREAD = 1.0, 1.5, 0.6
"""weights of: equal rows per part; equal class shares within a part; equal parts of each class. Chosen over
random group structures so that both class shares and row counts are closer than scikit-learn's on average"""
MISSING = 1e6
"""cost of one class that one part lacks: above any imbalance"""
DRAWS = 20
"""of a test split and an order, before folds that hold every class are given up"""
MOVES, SWAP_CELLS = 300, 20_000_000
"""budget of the refinement, in steps and in swaps looked at (not in time: the result must not depend on the machine)"""


def make_folds(
    y: Ints,
    groups: NDArray[np.str_],
    k: int,
    seed: int,
    test_fraction: float,
    split: NDArray[np.str_] | None,
    classes: tuple[str, ...],
    ids: NDArray[np.str_] | None = None,
) -> Folds:
    """The test split and K folds of a data set.

    y: (N,) index into `classes`, or multi-label (N, C) with 1, 0 and -1 (not known); groups: (N,).
    test_fraction: the test split's share of the rows, where it is drawn; 0: there is none.
    split: (N,) or None to draw the test split. Rows that say `test` (in any case) are held out; every other value is
    development. ids: (N,) what to call a row in messages.
    The same arguments give the same folds. Every part holds every class (of a multi-label task: a yes and a no to
    each); a given test split is taken as it is.
    Raises RequestError when a class has too few groups, when a given split cuts a group or has no test rows.
    """
    ids = ids if ids is not None else np.array([f"row {row}" for row in range(len(y))], dtype=np.str_)
    of_row = by_appearance(groups)
    columns, names, required = _columns(y, classes)
    counts = np.zeros((int(of_row.max(initial=-1)) + 1, len(names)), dtype=np.int64)
    np.add.at(counts, of_row, columns)
    given = None if split is None else _given_test(split, groups, of_row, ids)
    if given is None:
        _require_enough(counts, k, names, required, drawn=test_fraction > 0)
    else:
        _require_enough(counts[~given], k, names, required, drawn=False)
    fold = _divide(counts, k, seed, test_fraction, given, names, required)[of_row]
    folds = Folds(fold=fold, k=k, folds_hash=_hash(fold, k))
    check_folds(folds, groups, ids)
    return folds


def _divide(
    counts: Ints, k: int, seed: int, fraction: float, given: Bools | None, names: tuple[str, ...], need: Ints
) -> Ints:
    """(G,) the part of each group. Where classes share groups, a test split or an order may leave folds that cannot be
    dealt though others can: then others are drawn. Raises the first RequestError where none of DRAWS does."""
    refused: RequestError | None = None
    for draw in range(DRAWS):
        own = seed if draw == 0 else derive_seed(seed, "again", draw)
        part = np.full(len(counts), TEST, dtype=np.int64)
        try:
            in_test = _draw_test(counts, k, own, fraction, names, need) if given is None else given
            part[~in_test] = _deal(
                counts[~in_test], np.full(k, 1 / k), np.tile(need, (k, 1)), derive_seed(own, "folds"), True, names
            )
        except RequestError as error:
            refused = refused or error
        else:
            return part
    assert refused is not None
    raise refused


def draw_part(y: Ints, groups: NDArray[np.str_], share: float, seed: int, classes: tuple[str, ...]) -> Bools:
    """(n,) whole groups that hold about `share` of the rows, drawn so that class shares are kept.

    y: (n,) or multi-label (n, C); groups: (n,). A class that has two groups or more is in both parts where that can be.
    Raises RequestError when all rows are of one group.
    """
    of_row = by_appearance(groups)
    columns, names, _ = _columns(y, classes)
    counts = np.zeros((int(of_row.max(initial=-1)) + 1, len(names)), dtype=np.int64)
    np.add.at(counts, of_row, columns)
    if len(counts) < 2:
        raise RequestError("train.select: inner: the training rows are one single group. Set train.select: last.")
    shares, seed = np.array([share, 1 - share]), derive_seed(seed, "part")
    wanted = ((counts > 0).sum(axis=0) >= 2).astype(np.int64)
    for need in (np.tile(wanted, (2, 1)), np.zeros((2, len(names)), dtype=np.int64)):
        try:
            drawn = np.asarray(_deal(counts, shares, need, seed, False, names) == 0)
            break
        except RequestError:  # groups of several classes cannot always be dealt so that each part has each class
            continue
    rows = np.bincount(of_row)
    if not drawn.any():
        drawn[np.argmin(rows)] = True
    if drawn.all():
        drawn[np.argmax(rows)] = False
    return np.asarray(drawn[of_row])


def _columns(y: Ints, classes: tuple[str, ...]) -> tuple[Ints, tuple[str, ...], Ints]:
    """(N, F) what is balanced, 0 or 1 for each row; its names (F,); (F,) 1 where every part needs one, else 0.

    One column for each class; in a multi-label task the yes, no and not known of each, so that every label is balanced
    for itself (the aim of iterative stratification, Sechidis, Tsoumakas and Vlahavas 2011) and so is what is missing.
    """
    if y.ndim == 1:
        return np.eye(len(classes), dtype=np.int64)[y], classes, np.ones(len(classes), dtype=np.int64)
    parts, names, required = [], [], []
    for c, name in enumerate(classes):
        for value, said in ((1, "1"), (0, "0"), (-1, "unknown")):
            column = (y[:, c] == value).astype(np.int64)
            if value >= 0 or column.any():
                parts.append(column)
                names.append(f"{name}={said}")
                required.append(int(value >= 0))
    return np.column_stack(parts), tuple(names), np.array(required, dtype=np.int64)


def check_folds(folds: Folds, groups: NDArray[np.str_], ids: NDArray[np.str_] | None = None) -> None:
    """Raises RequestError when a group has rows in two parts; names up to three such groups and their images."""
    of_row = by_appearance(groups)
    if len(of_row) != len(folds.fold):
        raise RequestError(
            f"the folds are of {len(folds.fold)} rows, the data has {len(of_row)}: the data changed since they were "
            "made. Give the study another name with --as NEWNAME."
        )
    first = np.zeros(int(of_row.max(initial=-1)) + 1, dtype=np.int64)
    first[of_row[::-1]] = folds.fold[::-1]
    straddling = list(dict.fromkeys(of_row[folds.fold != first[of_row]].tolist()))
    if not straddling:
        return
    said = []
    for group in straddling[:3]:
        rows = np.flatnonzero(of_row == group)
        parts = ", ".join("test" if part == TEST else f"fold {part}" for part in np.unique(folds.fold[rows]).tolist())
        names = "" if ids is None else f" ({_some(ids[rows].tolist())})"
        said.append(f"group {groups[rows[0]]} is in {parts}{names}")
    raise RequestError(
        f"{len(straddling)} group(s) are in more than one part: {'; '.join(said)}. A group must stay whole: correct "
        "the column data.group or data.split, or draw the test split with --set data.split=null."
    )


def _hash(fold: Ints, k: int) -> str:
    return hashlib.blake2b(f"{k}\x1f".encode() + fold.astype("<i8").tobytes(), digest_size=8).hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_enough(counts: Ints, k: int, classes: tuple[str, ...], required: Ints, drawn: bool) -> None:
    """Each class needs one group for every part that must hold it."""
    rows, groups = counts.sum(axis=0), (counts > 0).sum(axis=0)
    need = k + int(drawn)
    short = [c for c in range(len(classes)) if groups[c] < need * required[c]]
    if not short:
        return
    most = int(groups[required > 0].min()) - int(drawn)
    way_out = f"Type --set data.folds={most}" if most >= 2 else "No number of folds fits: add images of it"
    what = "; ".join(f"class {classes[c]!r} has {rows[c]} rows in {groups[c]} groups" for c in short[:5])
    where = f"{k} folds and a test split" if drawn else f"{k} folds of the development rows"
    raise RequestError(
        f"{what}, too few for {where}, which need {need} groups of each class. {way_out}, or leave the class out."
    )


def _given_test(split: NDArray[np.str_], groups: NDArray[np.str_], of_row: Ints, ids: NDArray[np.str_]) -> Bools:
    """(G,) which groups the split column holds out."""
    test_rows = np.array([str(value).strip().lower() == "test" for value in split], dtype=bool)
    if not test_rows.any() or test_rows.all():
        values, numbers = np.unique(split.astype(np.str_), return_counts=True)
        listed = [f"{value!r} ({number})" for value, number in zip(values.tolist(), numbers.tolist(), strict=True)]
        raise RequestError(
            f"the column data.split holds out {'every row' if test_rows.any() else 'no row'}: its values are "
            f"{_some(listed)}, and rows that say 'test' are the test split. Correct the column, or draw the test split "
            "with --set data.split=null."
        )
    check_folds(Folds(np.where(test_rows, TEST, 0), 1, ""), groups, ids)
    in_test = np.zeros(int(of_row.max()) + 1, dtype=bool)
    in_test[of_row[test_rows]] = True
    return in_test


def _draw_test(counts: Ints, k: int, seed: int, fraction: float, classes: tuple[str, ...], required: Ints) -> Bools:
    """(G,) the held-out groups, none for a fraction of 0. Groups are dealt in random order: large ones are as likely to
    be tested as small."""
    if fraction == 0:
        return np.zeros(len(counts), dtype=bool)
    shares, need = np.array([fraction, 1 - fraction]), np.outer([1, k], required)
    return np.asarray(_deal(counts, shares, need, derive_seed(seed, "test"), False, classes) == 0)


@dataclass
class _Table:
    """A deal being made, by kind of group: groups with equal counts are exchangeable."""

    has: Ints
    """(J, U) groups of each kind in each part"""
    excess: Floats
    """(J, F) what a part has above its share"""
    holds: Ints
    """(J, C) groups in each part that have the class"""

    def shift(self, kind: int, a: int, b: int, features: Floats, present: Ints) -> None:
        for sign, part in ((-1, a), (1, b)):
            self.has[part, kind] += sign
            self.excess[part] += sign * features[kind]
            self.holds[part] += sign * present[kind]


def _deal(counts: Ints, shares: Floats, need: Ints, seed: int, large_first: bool, classes: tuple[str, ...]) -> Ints:
    """(G,) the part of each group. counts: (G, C); shares: (J,) of everything; need: (J, C) groups of each class."""
    rng = np.random.default_rng(seed)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    kind = kind.ravel()
    features, present = _features(kinds, counts.sum(axis=0)), (kinds > 0).astype(np.int64)
    order = rng.permutation(len(counts))
    if large_first:
        order = order[np.argsort(-np.abs(features).max(axis=1)[kind[order]], kind="stable")]
    table = _Table(
        has=np.zeros((len(shares), len(kinds)), dtype=np.int64),
        excess=-np.outer(shares, features[kind].sum(axis=0)),
        holds=np.zeros((len(shares), counts.shape[1]), dtype=np.int64),
    )
    for one in kind[order].tolist():
        part = int(np.argmin((table.excess @ features[one]) / shares))
        table.has[part, one] += 1
        table.excess[part] += features[one]
        table.holds[part] += present[one]
    _refine(table, features, present, need)
    lacking = np.argwhere(table.holds < need)
    if len(lacking):
        fewer = max(len(shares), int(need.max())) - 1
        way_out = f"Type --set data.folds={fewer}, or" if fewer >= 2 else "Add images of it, or"
        raise RequestError(
            f"the groups of class {classes[int(lacking[0, 1])]!r} cannot be dealt so that every part has one: they "
            f"hold other classes too. {way_out} leave the class out."
        )
    part_of = np.empty(len(counts), dtype=np.int64)
    for one in range(len(kinds)):
        members = rng.permutation(np.flatnonzero(kind == one))
        part_of[members] = np.repeat(np.arange(len(shares)), table.has[:, one])
    return part_of


def _features(kinds: Ints, totals: Ints) -> Floats:
    """(U, F) what one group of each kind adds to a part, so that a perfect deal has none in excess anywhere."""
    all_rows = float(totals.sum())
    rows = kinds.sum(axis=1, keepdims=True) / all_rows
    apart = kinds / all_rows - rows * (totals / all_rows)
    spread = kinds / np.maximum(totals, 1)
    return np.concatenate([ROWS * rows, SHARE * apart, SPREAD * spread], axis=1)


def _refine(table: _Table, features: Floats, present: Ints, need: Ints) -> None:
    """Take the best move of one group, or where none helps the best swap of two, until neither does."""
    looked_at = 0
    for _ in range(MOVES):
        move = _best_move(table, features, present, need)
        if move is not None:
            table.shift(*move, features, present)
            continue
        looked_at += int((table.has > 0).sum()) ** 2 // 2
        if looked_at > SWAP_CELLS:
            return
        swap = _best_swap(table, features, present, need)
        if swap is None:
            return
        u, v, a, b = swap
        table.shift(u, a, b, features, present)
        table.shift(v, b, a, features, present)


def _best_move(table: _Table, features: Floats, present: Ints, need: Ints) -> tuple[int, int, int] | None:
    """(kind, from, to) of the move that lowers the squared excess most."""
    along = features @ table.excess.T
    size = (features**2).sum(axis=1)
    loses = present @ (table.holds <= need).T.astype(np.int64)
    gains = present @ (table.holds < need).T.astype(np.int64)
    change = 2 * (along[:, None, :] - along[:, :, None] + size[:, None, None])
    change = change + MISSING * (loses[:, :, None] - gains[:, None, :])
    change[~(table.has.T > 0)] = np.inf
    diagonal = np.arange(len(need))
    change[:, diagonal, diagonal] = np.inf
    best = int(np.argmin(change))
    if not change.flat[best] < -1e-12:
        return None
    kind, a, b = np.unravel_index(best, change.shape)
    return int(kind), int(a), int(b)


def _best_swap(table: _Table, features: Floats, present: Ints, need: Ints) -> tuple[int, int, int, int] | None:
    """(kind leaving a, kind leaving b, a, b) of the swap that lowers the squared excess most and costs no class."""
    best, found = -1e-12, None
    size = (features**2).sum(axis=1)
    for a in range(len(need)):
        us = np.flatnonzero(table.has[a])
        for b in range(a + 1, len(need)):
            vs = np.flatnonzero(table.has[b])
            along = features @ (table.excess[a] - table.excess[b])
            apart = size[us][:, None] + size[vs] - 2 * features[us] @ features[vs].T
            change = 2 * (along[vs] - along[us][:, None] + apart)
            # a class that a part can only just hold must come back with the other group
            scarce_a, scarce_b = table.holds[a] <= need[a], table.holds[b] <= need[b]
            gone_a = (present[us] * scarce_a) @ (1 - present[vs]).T
            gone_b = (1 - present[us]) @ (present[vs] * scarce_b).T
            change[(gone_a > 0) | (gone_b > 0)] = np.inf
            least = int(np.argmin(change)) if change.size else -1
            if least >= 0 and change.flat[least] < best:
                best = float(change.flat[least])
                found = (int(us[least // len(vs)]), int(vs[least % len(vs)]), a, b)
    return found
