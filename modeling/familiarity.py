"""The bank of training photos that tells whether a photo is of their kind (`contract.familiarity`).

A checkpoint keeps it in `familiarity.safetensors`. Its rows are a uniform random sample of the training photos: only so
are a member, compared with the others, and a new photo of the same kind, compared with all, alike. A core set that covers
the photos well (k-centre) would be made of the outlying ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from contract.errors import CheckpointError
from contract.familiarity import MOST_PHOTOS, NEIGHBOURS

FAMILIARITY_FILE = "familiarity.safetensors"
TENSORS = ("basis", "features", "reference")
ABOUT = "familiarity"  # entry of the file's metadata: JSON of `_About`
Origin = Literal["left-out", "validation"]
LEFT_OUT: Origin = "left-out"
VALIDATION: Origin = "validation"
MOST_BYTES = 64 << 20
SHORTEST, LONGEST = 0.99, 1.01  # of what was brought to length 1 and rounded to fp16
RANK = 128  # directions: with all 1,280 a processor would wait for the bank's megabytes (docs/results/familiarity.md)
ITERATIONS = 4
PART = 4096  # photos that are compared at once
FOLDS = 20
LEAST_SPREAD = 1e-3  # of the reference, from its lowest hundredth to its middle: within less, rounding decides


@dataclass(frozen=True, eq=False)
class Bank:
    """Features of N training photos in R directions, and the similarities that new ones are held against.

    basis       float16 [W, R]   orthonormal columns: the directions in which the photos differ most
    features    float16 [N, R]   pooled image tokens, of length 1 before they were brought to the basis
    reference   float32 [M]      sorted; of the bank's own photos, each left out (M = N), or of validation photos
    tower       hex sha256 of the tower that made them (`modeling.towers.tower_digest`)
    image_size  pixels a side
    origin      of `reference`: LEFT_OUT, or VALIDATION where the tower was trained
    """

    basis: torch.Tensor
    features: torch.Tensor
    reference: torch.Tensor
    tower: str
    image_size: int
    origin: Origin = LEFT_OUT

    def similarity(self, features: torch.Tensor) -> torch.Tensor:
        """Pooled features float32 [B, W] → mean cosine to the nearest rows, float32 [B]."""
        return _similarity(features, self.basis, self.features)

    def familiarity(self, similarity: torch.Tensor) -> torch.Tensor:
        """Similarities float32 [B] → share of the reference that is smaller, float32 [B], 0 to 1."""
        smaller = torch.searchsorted(self.reference.to(similarity.device), similarity.contiguous())
        return smaller.float() / len(self.reference)


class _About(BaseModel):
    """What a bank's file says of it beside the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tower: str
    image_size: int = Field(ge=1)
    origin: Origin
    neighbours: int


def pooled(embeds: torch.Tensor) -> torch.Tensor:
    """Image tokens float32 [B, T, W] → their mean, brought to length 1: float32 [B, W]."""
    return torch.nn.functional.normalize(embeds.float().mean(dim=1), dim=1)


def make_bank(
    features: torch.Tensor, *, tower: str, image_size: int, validation: torch.Tensor | None = None
) -> Bank | None:
    """The bank of pooled features float32 [N, W] of a random sample of the training photos, N at most `MOST_PHOTOS`.

    Reference values are the similarities of the photos themselves, each left out with a twentieth of them, or those of
    `validation`, pooled features float32 [M, W]. None for too few photos to have neighbours. Raises `CheckpointError` for
    features that are not finite, zero, or so alike that only rounding tells one photo from another.
    """
    if len(features) <= NEIGHBOURS + 1:
        return None
    if len(features) > MOST_PHOTOS:
        raise ValueError(f"a bank has at most {MOST_PHOTOS} photos, not {len(features)}")
    rows = features.detach().float().cpu()
    lengths = rows.norm(dim=1)
    if not bool(((lengths > SHORTEST) & (lengths < LONGEST)).all()):
        raise CheckpointError("The features of the training photos are not all of length 1: zero, or not finite.")
    basis, kept = _reduced(rows)
    if validation is None:
        reference, origin = _left_out(rows), LEFT_OUT
    else:
        reference, origin = _similarity(validation.detach().float().cpu(), basis, kept), VALIDATION
    reference = reference.sort().values
    if not reference[len(reference) // 2] - reference[len(reference) // 100] >= LEAST_SPREAD:
        raise CheckpointError("To the image tower the training photos look all the same.")
    bank = Bank(basis, kept, reference, tower, image_size, origin)
    try:
        _check_bank(bank, rows.shape[1])
    except ValueError as error:  # no checkpoint is written that cannot be read
        raise CheckpointError(f"The training photos make no bank: {error}.") from None
    return bank


def _reduced(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, W] → basis float16 [W, R] and the rows in it, float16 [N, R]; R is `RANK`, or as large as it can be.

    Subspace iteration from the first rows (Halko et al. 2011, arXiv:0909.4061, section 4.5), without a random number. A
    cosine to a row is then that to its part in the basis: what is left out is where the photos hardly differ.
    """
    basis, _ = torch.linalg.qr(rows[:RANK].T)
    for _ in range(ITERATIONS):
        basis, _ = torch.linalg.qr(rows.T @ (rows @ basis))
    short = basis.half()
    return short, (rows @ short.float()).half()


def _left_out(rows: torch.Tensor) -> torch.Tensor:
    """Similarity of each row [N, W] to a bank made without it, float32 [N].

    A basis is nearer to the photos that it was made from than to new ones, so the left out must be left out of it too.
    """
    found = torch.empty(len(rows))
    folds = min(FOLDS, len(rows))
    for fold in range(folds):
        inside = torch.arange(len(rows)) % folds == fold
        found[inside] = _similarity(rows[inside], *_reduced(rows[~inside]))
    return found


def _similarity(features: torch.Tensor, basis: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    basis, rows = basis.to(features), rows.to(features)
    parts = features.split(PART)  # many photos' cosines at once would be gigabytes
    return torch.cat([(part @ basis @ rows.T).topk(NEIGHBOURS, dim=1).values.mean(dim=1) for part in parts])


def save_bank(bank: Bank, folder: Path) -> None:
    """Write `familiarity.safetensors`; the same bank gives the same bytes."""
    about = _About(tower=bank.tower, image_size=bank.image_size, origin=bank.origin, neighbours=NEIGHBOURS)
    tensors = {name: getattr(bank, name).contiguous() for name in TENSORS}
    # one entry: several are written in an order that changes from run to run
    save_file(tensors, folder / FAMILIARITY_FILE, metadata={ABOUT: about.model_dump_json()})


def read_bank(folder: Path, *, tower: str, width: int) -> Bank | None:
    """The bank of a checkpoint folder, or None where it has none.

    `tower` and `width`, channels, are those of the checkpoint's own tower. Raises `CheckpointError` for a file that is
    damaged, of another tower, or not a bank.
    """
    path = folder / FAMILIARITY_FILE
    if not path.exists():
        return None
    remedy = "Delete it to do without, or train again."
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        with safe_open(path, framework="pt") as file:
            about = _About.model_validate_json((file.metadata() or {}).get(ABOUT, ""))
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.tower != tower:
            raise ValueError("it was made by another image tower than the checkpoint's")
        if about.neighbours != NEIGHBOURS or set(found) != set(TENSORS):
            raise ValueError("it is of another kind")
        bank = Bank(**found, tower=tower, image_size=about.image_size, origin=about.origin)
        _check_bank(bank, width)
    except ValidationError:
        raise CheckpointError(f"{path} does not say what bank of training photos it is. {remedy}") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not this checkpoint's bank of training photos: {error}. {remedy}") from None
    return bank


def _check_bank(bank: Bank, width: int) -> None:
    basis, rows, reference = bank.basis, bank.features, bank.reference
    if basis.dtype != torch.float16 or basis.ndim != 2 or basis.shape[0] != width or not basis.shape[1]:
        raise ValueError(f"its basis is {basis.dtype} {list(basis.shape)}, not float16 [{width}, directions]")
    if rows.dtype != torch.float16 or rows.ndim != 2 or rows.shape[1] != basis.shape[1]:
        raise ValueError(f"its features are {rows.dtype} {list(rows.shape)}, not float16 [photos, {basis.shape[1]}]")
    if not NEIGHBOURS < len(rows) <= MOST_PHOTOS:
        raise ValueError(f"it holds {len(rows)} photos, not {NEIGHBOURS + 1} to {MOST_PHOTOS}")
    if reference.dtype != torch.float32 or reference.ndim != 1 or not len(reference):
        raise ValueError(f"its reference is {reference.dtype} {list(reference.shape)}")
    if not bool(torch.isfinite(reference).all()) or bool((reference.diff() < 0).any()):
        raise ValueError("its reference values are not finite and sorted")
    if not bool((reference.abs() < LONGEST).all()):
        raise ValueError("its reference values are no cosines")
    directions, lengths = basis.float().norm(dim=0), rows.float().norm(dim=1)
    if not bool(((directions > SHORTEST) & (directions < LONGEST)).all()):
        raise ValueError("its basis has directions that are not of length 1: some are zero, or not finite")
    if not bool(((lengths > 0) & (lengths < LONGEST)).all()):
        raise ValueError("its features are zero, longer than 1, or not finite")
