"""Is this a photo of the kind that a model was trained on? What training, export and the service must agree on.

A photo's image tokens are averaged and brought to length 1. Its **similarity** is the mean cosine to the nearest
`NEIGHBOURS` rows of a bank, the same features of a random sample of the training photos, kept in the directions in which
those differ most. Its **familiarity** is the share of the bank's reference similarities (of its own photos, each left out
in turn) that are smaller: 0.03 reads "only 3 % of the training photos look less like the rest than this one does".

Deep nearest neighbours for photos of another kind: Sun et al. 2022, arXiv:2204.06507.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

NEIGHBOURS = 10
MOST_PHOTOS = 4096  # rows of a bank
SIMILARITY, FAMILIARITY = "similarity", "familiarity"  # outputs of scorer.onnx
BELOW = 0.01  # familiarity below which a photo is unfamiliar, if nobody says otherwise


class FamiliarityCheck(BaseModel):
    """What export found with a bundle's own graphs: how many `photos` lie below `below`, by them and by PyTorch.

    `largest_difference` is that of similarities, over all samples. No photos: made-up pictures alone were compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: int = Field(ge=0)
    below: float = Field(ge=0, le=1)
    unfamiliar: int = Field(ge=0)
    unfamiliar_pytorch: int = Field(ge=0)
    largest_difference: float = Field(ge=0)


class Familiarity(BaseModel):
    """The bank in a bundle's scorer.onnx: `photos` are its rows, numbers in `directions`.

    `check` is None where export compared nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: int = Field(ge=NEIGHBOURS + 1, le=MOST_PHOTOS)
    directions: int = Field(ge=1)
    neighbours: int = Field(ge=1)
    check: FamiliarityCheck | None = None
