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
ABOUT = "familiarity"  # entry of the file's metadata: JSON of `_About`
Origin = Literal["leave-one-out", "validation"]
LEAVE_ONE_OUT: Origin = "leave-one-out"
VALIDATION: Origin = "validation"
MOST_BYTES = 64 << 20
SHORTEST, LONGEST = 0.99, 1.01  # of a row that was brought to length 1 and rounded to fp16


@dataclass(frozen=True, eq=False)
class Bank:
    """Features of N training photos and the similarities that new ones are held against.

    features    float16 [N, W]   pooled image tokens, of length 1
    reference   float32 [M]      sorted; leave-one-out (M = N), or of validation photos where the tower was trained
    tower       hex sha256 of the tower that made them (`modeling.towers.tower_digest`)
    image_size  pixels a side
    origin      of `reference`: LEAVE_ONE_OUT or VALIDATION
    """

    features: torch.Tensor
    reference: torch.Tensor
    tower: str
    image_size: int
    origin: Origin = LEAVE_ONE_OUT

    def similarity(self, features: torch.Tensor) -> torch.Tensor:
        """Pooled features float32 [B, W] → mean cosine to the nearest rows, float32 [B]."""
        return similarity(features, self.features)

    def familiarity(self, similarity: torch.Tensor) -> torch.Tensor:
        """Similarities float32 [B] → share of the reference that is smaller, float32 [B], 0 to 1."""
        return (self.reference.to(similarity.device) < similarity[:, None]).float().mean(dim=1)


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


def similarity(features: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Pooled features float32 [B, W] against rows [N, W] of any type: mean of the largest cosines, float32 [B]."""
    return (features @ bank.to(features).T).topk(NEIGHBOURS, dim=1).values.mean(dim=1)


def make_bank(
    features: torch.Tensor, *, tower: str, image_size: int, validation: torch.Tensor | None = None
) -> Bank | None:
    """The bank of pooled features float32 [N, W] of a random sample of the training photos, N at most `MOST_PHOTOS`.

    Reference values are leave-one-out, or the similarities of `validation`, pooled features float32 [M, W]. None for
    too few photos to have neighbours. Raises `CheckpointError` for features that are not finite or zero.
    """
    if len(features) <= NEIGHBOURS:
        return None
    if len(features) > MOST_PHOTOS:
        raise ValueError(f"a bank has at most {MOST_PHOTOS} photos, not {len(features)}")
    rows = features.half().cpu()
    _check_rows(rows, "The features of the training photos")
    if validation is None:
        cosines = features.cpu() @ rows.float().T
        reference = cosines.fill_diagonal_(-2.0).topk(NEIGHBOURS, dim=1).values.mean(dim=1)
    else:
        reference = similarity(validation.cpu(), rows)
    origin = LEAVE_ONE_OUT if validation is None else VALIDATION
    return Bank(rows, reference.sort().values, tower, image_size, origin)


def save_bank(bank: Bank, folder: Path) -> None:
    """Write `familiarity.safetensors`; the same bank gives the same bytes."""
    about = _About(tower=bank.tower, image_size=bank.image_size, origin=bank.origin, neighbours=NEIGHBOURS)
    tensors = {"features": bank.features.contiguous(), "reference": bank.reference.contiguous()}
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
        if about.neighbours != NEIGHBOURS or set(found) != {"features", "reference"}:
            raise ValueError("it is of another kind")
        bank = Bank(found["features"], found["reference"], tower, about.image_size, about.origin)
        _check_bank(bank, width)
    except ValidationError:
        raise CheckpointError(f"{path} does not say what bank of training photos it is. {remedy}") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not this checkpoint's bank of training photos: {error}. {remedy}") from None
    return bank


def _check_bank(bank: Bank, width: int) -> None:
    rows, reference = bank.features, bank.reference
    if rows.dtype != torch.float16 or rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"its features are {rows.dtype} {list(rows.shape)}, not float16 [photos, {width}]")
    if not NEIGHBOURS < len(rows) <= MOST_PHOTOS:
        raise ValueError(f"it holds {len(rows)} photos, not {NEIGHBOURS + 1} to {MOST_PHOTOS}")
    if reference.dtype != torch.float32 or reference.ndim != 1 or not len(reference):
        raise ValueError(f"its reference is {reference.dtype} {list(reference.shape)}")
    if not bool(torch.isfinite(reference).all()) or bool((reference.diff() < 0).any()):
        raise ValueError("its reference values are not finite and sorted")
    _check_rows(rows, "its features")


def _check_rows(rows: torch.Tensor, what: str) -> None:
    lengths = rows.float().norm(dim=1)
    if not bool(((lengths > SHORTEST) & (lengths < LONGEST)).all()):
        raise CheckpointError(f"{what} are not all of length 1: some are zero, or not finite")
