"""A sample of the training photos against all of them, and classes that were never seen, on photos of 64 px.

Features are those of the bundle's own image tower; only the bank changes, so no decoder has to be trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.accuracy.familiarity.ask import (
    Bools,
    Floats,
    familiarity,
    share,
    similarity,
    threshold,
    told_apart,
)
from contract.familiarity import BELOW, MOST_PHOTOS, MOST_ROWS

SIZES = (4096, 2048, 1024, 512)
SEEDS = 5  # samples of each size


def against(photos: Floats, rows: int, validation: Floats, food: Floats, others: Floats) -> dict[str, Any]:
    """What a bank makes of three sets of features: its rows are the first `rows` of the `photos` [M, W].

    Reference values are those of all M, each to the rows that are not itself, as `modeling.familiarity` has it.
    """
    bank = photos[:rows]
    reference = similarity(photos, bank, members=True)
    kept, seen, other = (similarity(asked, bank) for asked in (validation, food, others))
    least = threshold(kept)
    return told_apart(seen, other) | {
        "at_validation": {"food_kept": share(seen >= least), "others_refused": share(other < least)},
        "at_default": {
            "food_kept": share(familiarity(seen, reference) >= BELOW),
            "others_refused": share(familiarity(other, reference) < BELOW),
        },
    }


def sizes(train: Floats, test: Floats, others: Floats) -> dict[str, Any]:
    """All training photos as rows, and random samples of `MOST_PHOTOS`, of which so many are rows: `SEEDS` samples each.

    Half of the `test` photos choose the threshold that keeps 99 %, the other half are the food.
    """
    halves = np.random.default_rng(0).permutation(len(test)) % 2 == 0
    parts = test[halves], test[~halves], others
    found: dict[str, Any] = {str(len(train)): [against(train, len(train), *parts)]}
    draws = [np.random.default_rng(seed).permutation(len(train))[:MOST_PHOTOS] for seed in range(SEEDS)]
    for size in SIZES:
        if size < len(train):
            found[str(size)] = [against(train[rows], size, *parts) for rows in draws]
    return found


def unseen_classes(train: Floats, test: Floats, others: Floats, train_seen: Bools, test_seen: Bools) -> dict[str, Any]:
    """A bank of some classes at 64 px, asked about new photos of the same classes and about all the other classes.

    `train_seen` and `test_seen`, bool [N], say which photos are of the classes in the bank.
    """
    photos = train[np.random.default_rng(0).permutation(np.flatnonzero(train_seen))[:MOST_PHOTOS]]
    bank = photos[:MOST_ROWS]
    reference = similarity(photos, bank, members=True)
    values = {"seen": test[test_seen], "unseen": test[~test_seen], "others": others}
    familiar = {name: familiarity(similarity(asked, bank), reference) for name, asked in values.items()}
    return {
        "photos": len(bank),
        "seen_kept": share(familiar["seen"] >= BELOW),
        "unseen_kept": share(familiar["unseen"] >= BELOW),
        "others_refused": share(familiar["others"] < BELOW),
        "unseen_median_familiarity": float(np.median(familiar["unseen"])),
    }
