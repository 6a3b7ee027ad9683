"""The bank at the end of a run: which training photos a checkpoint remembers, and how far that can be trusted.

A tower that was trained on photos sees them as more alike than it sees new ones. Held against the values of the bank's
own photos, new ones would then look unfamiliar too often: how often is measured on the validation photos in every run
that has any, and where there are enough of them their similarities take the place of those values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch.utils.data import Subset
from tqdm import tqdm

from contract.errors import CheckpointError
from contract.familiarity import BELOW
from modeling.familiarity import Bank, make_bank, pooled
from modeling.towers import token_width, tower_digest
from training.data.cache import Features
from training.data.dataset import Photos
from training.data.loading import batches
from training.data.sources import Item
from training.data.stream import Stream
from training.evaluate.metrics import Share
from training.loop import Task
from training.recipe import LEAST_REMEMBERED
from training.state import stream_seed

BATCH = 64
ENOUGH = 200  # validation photos, to be held against in place of the bank's own: two of them then lie below 0.01


@dataclass(frozen=True, eq=False)
class Remembered:
    """A bank, if there is one, and what is to be said of it: metrics of the record and lines for people.

    `features` float32 [N, W] are those that the bank was made of.
    """

    bank: Bank | None
    features: torch.Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def tower_trains(task: Task) -> bool:
    """Whether weights of the image tower change in this run."""
    return task.recipe.train.freeze != "decoder"


def training_bank(task: Task) -> Remembered:
    """The bank of a uniform sample of the training photos as they are, by the tower as it is now.

    The sample depends on the seed and the data, not on what the run did. None of `familiarity.photos` = 0, of too few
    photos, and of a tower whose features cannot be compared. Raises `ContractError` for an unreadable photo under
    `stop` and for a stream that ends early.
    """
    if not task.recipe.familiarity.photos:
        return Remembered(None)
    features = torch.cat([torch.empty(0, token_width(task.blip.model.config)), *_features(task)])
    count = f"{len(features)} training photos"
    try:
        bank = make_bank(features, tower=tower_digest(task.blip.model), image_size=task.blip.image_size)
    except CheckpointError as error:  # no reason to lose a run
        return Remembered(None, lines=(f"familiarity: no training photos are remembered. {error}",))
    if bank is None:
        few = f"familiarity: {count} are too few to be remembered; it takes {LEAST_REMEMBERED}."
        return Remembered(None, lines=(few,))
    return Remembered(bank, features, lines=(f"familiarity: {count} remembered",))


def checked(found: Remembered, validation: torch.Tensor | None, *, tower_trained: bool) -> Remembered:
    """The bank after a look at the validation photos, pooled features float32 [M, W] by the same tower; None: no such.

    `validation_unfamiliar` is the share of them that the values of the bank's own photos call unfamiliar, also where
    theirs then take the place of these: held against themselves they would show 1 % below 0.01 and prove nothing.
    """
    bank, features, lines = found.bank, found.features, list(found.lines)
    if bank is None or features is None:
        return found
    count = 0 if validation is None else len(validation)
    if validation is not None and count:
        share = Share(int((bank.familiarity(bank.similarity(validation)) < BELOW).sum()), count)
        lines[-1] += f"; of {count} validation photos {share} look unfamiliar (below {BELOW})"
        found = replace(found, metrics={"validation_unfamiliar": round(share.value, 4)})
    learnt = "note: the image tower was trained on these photos, so new ones"
    if tower_trained and validation is not None and count >= ENOUGH:
        try:
            bank = make_bank(features, tower=bank.tower, image_size=bank.image_size, validation=validation)
        except CheckpointError as error:
            return replace(found, bank=None, lines=(*lines, f"no training photos are remembered after all. {error}"))
        assert bank is not None  # of as many photos as before
        lines.append(f"{learnt} are held against the validation photos instead")
    elif tower_trained:
        wanted = f"{ENOUGH} validation photos (now {count}, data.validation) would take their place"
        lines.append(f"{learnt} look less familiar than they should; {wanted}")
    if (
        bank is not None and len(bank.reference) * BELOW < 1
    ):  # a photo is below the threshold where it is below them all
        chance = (
            f"note: with so few, one in {len(bank.reference) + 1} new photos of their kind looks unfamiliar by chance"
        )
        lines.insert(len(found.lines), f"{chance}; with 100 it is one in a hundred")
    return replace(found, bank=bank, lines=tuple(lines))


@torch.no_grad()
def _features(task: Task) -> Iterator[torch.Tensor]:
    """Pooled features float32 [B, W] of the sampled photos, in the data's order."""
    recipe, blip, photos = task.recipe, task.blip, task.photos
    most, seed = recipe.familiarity.photos, stream_seed(recipe.seed, "familiarity")
    if isinstance(photos, Features):
        view = photos.views[0]  # each photo as it is
        for rows in _sample(len(photos), most, seed).split(BATCH):
            yield pooled(view[rows.to(view.device)].float()).cpu()
        return
    items: Photos | Subset[Item]
    if isinstance(photos, Stream):
        items = photos.sample(most, seed)
    else:
        items = Subset(photos, _sample(len(photos), most, seed).tolist())  # type: ignore[arg-type]
    blip.model.eval()
    with tqdm(total=len(items), unit="img", desc="remembering", mininterval=1.0, leave=False) as bar:
        for batch in batches(items, task.bad, batch_size=BATCH, workers=recipe.data.workers):
            if len(batch.labels):
                yield pooled(blip.embed(batch.pixels.to(blip.model.device))).cpu()
                bar.update(len(batch.labels))


def _sample(photos: int, most: int, seed: int) -> torch.Tensor:
    """int64 [min(photos, most)], sorted: every subset is as likely as any other."""
    return torch.randperm(photos, generator=torch.Generator().manual_seed(seed))[:most].sort().values
