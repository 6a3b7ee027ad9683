"""A sample of the training photos against all of them, and classes that were never seen, on photos of 64 px.

Features are those of the bundle's own image tower; only the bank changes, so no decoder has to be trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.familiarity.ask import (
    Bools,
    Floats,
    familiarity,
    share,
    similarity,
    threshold,
    told_apart,
)
from contract.errors import ContractError
from contract.familiarity import BELOW, MOST_PHOTOS
from modeling.familiarity import Bank, make_bank

SIZES = (4096, 2048, 1024, 512)
SEEDS = 5  # samples of each size


def judged(reference: Floats, validation: Floats, food: Floats, others: Floats) -> dict[str, Any]:
    """What similarities tell, as `ask.refusals` says it: of the bank's own photos, and of three sets of photos."""
    least = threshold(validation)
    return told_apart(food, others) | {
        "at_validation": {"food_kept": share(food >= least), "others_refused": share(others < least)},
        "at_default": {
            "food_kept": share(familiarity(food, reference) >= BELOW),
            "others_refused": share(familiarity(others, reference) < BELOW),
        },
    }


def bank_of(photos: Floats) -> Bank:
    """The bank that training would keep of features [N, W]."""
    bank = make_bank(torch.from_numpy(photos), tower="", image_size=1)
    if bank is None:
        raise ContractError(f"{len(photos)} photos are too few for a bank.")
    return bank


def similarities(bank: Bank, photos: Floats) -> Floats:
    """Similarity of features [N, W] to a bank, float32 [N]."""
    found: Floats = bank.similarity(torch.from_numpy(photos)).numpy()
    return found


def sizes(train: Floats, test: Floats, others: Floats) -> dict[str, Any]:
    """The plain score over all training photos, and banks of `SIZES` photos: `SEEDS` random samples of each.

    Half of the `test` photos choose the threshold that keeps 99 %, the other half are the food.
    """
    halves = np.random.default_rng(0).permutation(len(test)) % 2 == 0
    parts = test[halves], test[~halves], others
    whole = (similarity(train, train, members=True), *(similarity(part, train) for part in parts))
    found: dict[str, Any] = {str(len(train)): [judged(*whole)]}
    draws = [np.random.default_rng(seed).permutation(len(train)) for seed in range(SEEDS)]
    for size in SIZES:
        if size < len(train):
            banks = (bank_of(train[rows[:size]]) for rows in draws)
            found[str(size)] = [
                judged(bank.reference.numpy(), *(similarities(bank, part) for part in parts)) for bank in banks
            ]
    return found


def unseen_classes(train: Floats, test: Floats, others: Floats, train_seen: Bools, test_seen: Bools) -> dict[str, Any]:
    """A bank of some classes at 64 px, asked about new photos of the same classes and about all the other classes.

    `train_seen` and `test_seen`, bool [N], say which photos are of the classes in the bank.
    """
    bank = bank_of(train[np.random.default_rng(0).permutation(np.flatnonzero(train_seen))[:MOST_PHOTOS]])
    values = {"seen": test[test_seen], "unseen": test[~test_seen], "others": others}
    familiar = {
        name: familiarity(similarities(bank, photos), bank.reference.numpy()) for name, photos in values.items()
    }
    return {
        "photos": len(bank.features),
        "seen_kept": share(familiar["seen"] >= BELOW),
        "unseen_kept": share(familiar["unseen"] >= BELOW),
        "others_refused": share(familiar["others"] < BELOW),
        "unseen_median_familiarity": float(np.median(familiar["unseen"])),
    }
