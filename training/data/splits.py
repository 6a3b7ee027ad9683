"""Which photos are kept apart: a share of each class, by a hash of each photo's name and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contract.errors import ContractError

Mask = npt.NDArray[np.bool_]
NO_VALIDATION = "Add photos of it, leave the class out, or set data.validation = 0."


def share_of_each_class(labels: Sequence[int], names: Sequence[str], share: float) -> Mask:
    """bool [N]: the photos kept apart, of N photos with label ids `labels` and names `names`.

    Of n photos of a class that is max(1, round(share * n)), never all: those whose names have the lowest SHA-256. So
    the choice depends on no seed and no order, and photos added to one class change nothing in another.
    Raises `SingleError` for a class with one photo.
    """
    ids = np.asarray(labels, dtype=np.int64)
    hashes = np.array([hashlib.sha256(name.encode()).digest() for name in names], dtype="S32")
    apart = np.zeros(len(ids), dtype=np.bool_)
    for label in np.unique(ids):
        members = np.flatnonzero(ids == label)
        if len(members) < 2:
            raise SingleError(int(label))
        count = min(len(members) - 1, max(1, round(share * len(members))))
        apart[members[np.argsort(hashes[members], kind="stable")[:count]]] = True
    return apart


class SingleError(ContractError):
    """The class with id `label` has one photo, so none can be kept apart; the caller knows its name and the remedy."""

    def __init__(self, label: int) -> None:
        super().__init__(f"The class {label} has one photo, so none can be kept apart.")
        self.label = label


def in_share(digest: bytes, share: float) -> bool:
    """Whether a photo whose bytes have this SHA-256 is in the share: the same photo always falls on the same side."""
    return int.from_bytes(digest[:8], "big") < share * 2**64
