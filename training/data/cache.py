"""The frozen image tower's outputs, computed once: fp16, memory-mapped, each photo as it is and augmented views of it.

A cache folder holds `view-<n>.npy` float16 [N, tokens, width], `labels.npy` int64 [N] and `cache.json`. Its name is a
digest of the tower's weights, the data, the augmentation and the seed, so that a changed one is never mistaken.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm import tqdm

from contract.errors import ContractError
from contract.files import new_folder, write_text_atomic
from contract.pixels import DRAFT_SIDES
from modeling.load import Blip
from modeling.towers import image_tokens, token_width, tower_digest
from training.data.augment import Augmenter
from training.data.loading import BadPhotos, batches
from training.data.sources import Item
from training.recipe import Recipe
from training.state import stream_seed

MARKER = "cache.json"
BATCH = 64
OF_THE_DISK = {  # what a folder says that cannot be written; other errors come from reading the photos
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
}  # fmt: skip
REMEDIES = "Lower cache.views, set cache.folder to a larger disk, or cache.views = 0 to compute them each epoch."


@dataclass
class Features:
    """Cached image embeddings of N photos: `views[v]` is float16 [N, tokens, width], `labels` int64 [N]."""

    views: list[torch.Tensor]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, *, batch_size: int, epoch: int = 0, seed: int | None = None, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Embeddings float16 [B, tokens, width] and labels of this process's share of each batch, from batch `start` on."""
        if seed is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(
                len(self), generator=torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
            )
        view = self.views[epoch % len(self.views)]
        for part in order.split(batch_size)[start:]:
            index = part[rank::world]
            yield view[index.to(view.device)], self.labels[index]


def cached_features(
    blip: Blip,
    items: Dataset[Item],
    *,
    recipe: Recipe,
    data: dict[str, Any],
    part: str,
    views: int,
    bad: BadPhotos,
    accelerator: Accelerator,
) -> Features:
    """Open the cache of `items`, which have a length, computing it first if need be; `views` 0 means one, too.

    `data` is the fingerprint of the photos. The first process computes, the others wait. Raises
    `ContractError` when the disk has no room for it or the folder cannot be written.
    """
    folder = Path(recipe.cache.folder) / f"{part}-{_key(blip, recipe, data, part, views)}"
    count = len(cast(Sized, items))
    tokens, width = image_tokens(blip.model.config, blip.image_size), token_width(blip.model.config)
    if accelerator.is_main_process and not (folder / MARKER).is_file():
        for left in folder.parent.glob(f".{folder.name}.*"):  # of a run that was killed while it computed
            shutil.rmtree(left, ignore_errors=True)
        try:
            _check_room(folder, max(1, views) * count * tokens * width * 2)
            _compute(blip, items, (count, tokens, width), recipe, folder, views, bad, part)
        except OSError as error:
            if error.errno not in OF_THE_DISK:
                raise
            raise ContractError(
                f"Cached features cannot be written to {folder.parent}: {error.strerror or error}. {REMEDIES}"
            ) from None
    accelerator.wait_for_everyone()
    device = accelerator.device if recipe.cache.on == "device" else None
    features, unreadable = _open(folder, tokens, width, device)
    bad.left_out.update(dict.fromkeys(unreadable))
    return features


def _key(blip: Blip, recipe: Recipe, fingerprint: dict[str, Any], part: str, views: int) -> str:
    digest = hashlib.sha256(tower_digest(blip.model).encode())
    augment = recipe.augment.model_dump(mode="json", exclude={"mixup"}) if views > 1 else None
    made = {
        "data": fingerprint,
        "on_bad_image": recipe.data.on_bad_image,
        "draft_sides": DRAFT_SIDES,  # how photos become pixels
        "part": part,
        "image_size": blip.image_size,  # a convolutional tower has the same weights at every size
        "views": views,
        "augment": augment,
        "seed": recipe.seed if views > 1 else None,
        "first": "as it is",
    }
    digest.update(json.dumps(made, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _check_room(folder: Path, needed: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise ContractError(
            f"Cached features need {needed / 1e9:.1f} GB in {folder.parent}, which has {free / 1e9:.1f} GB free. "
            f"{REMEDIES}"
        )


def _new_view(path: Path, shape: tuple[int, int, int]) -> np.memmap[Any, np.dtype[np.float16]]:
    """A new float16 file of that shape, mapped to be written.

    Its room is taken now, where the system can: a mapped file has none until a page is written, and
    a disk that fills up meanwhile ends the process by a signal (SIGBUS), without a sentence.
    """
    view = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return view


@torch.no_grad()
def _compute(
    blip: Blip, items: Dataset[Item], shape: tuple[int, int, int], recipe: Recipe, folder: Path, views: int,
    bad: BadPhotos, part: str,
) -> None:  # fmt: skip
    device = blip.model.device
    augment = Augmenter(recipe.augment, blip.image_size, device)
    labels: list[torch.Tensor] = []
    with (
        new_folder(folder, marker=MARKER, replace=True) as scratch,
        tqdm(total=max(1, views) * shape[0], unit="img", mininterval=1.0, desc=f"{part} features") as bar,
    ):
        files = [_new_view(scratch / f"view-{view}.npy", shape) for view in range(max(1, views))]
        done = 0
        for number, batch in enumerate(batches(items, bad, batch_size=BATCH, workers=recipe.data.workers)):
            if not len(batch.labels):
                continue
            pixels, ends = batch.pixels.to(device), done + len(batch.labels)
            for view, out in enumerate(files):
                changed = pixels
                if view:  # the first is the photo as it is
                    torch.manual_seed(stream_seed(recipe.seed, "view", view, number))
                    changed = augment(pixels)
                out[done:ends] = blip.embed(changed).half().cpu().numpy()
                bar.update(len(pixels))
            labels.append(batch.labels.clone())  # a worker's tensor keeps a file descriptor open
            done = ends
        for out in files:
            out.flush()
        del files, out
        if not labels:
            raise ContractError(f"No photo could be read ({bad.first or 'the data is empty'}).")
        np.save(scratch / "labels.npy", torch.cat(labels).numpy(), allow_pickle=False)
        about = {"views": max(1, views), "photos": int(sum(map(len, labels))), "unreadable": list(bad.left_out)}
        write_text_atomic(scratch / MARKER, json.dumps(about) + "\n")


def _open(folder: Path, tokens: int, width: int, on_device: torch.device | None) -> tuple[Features, list[str]]:
    try:
        about = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        photos, unreadable = int(about["photos"]), [str(path) for path in about["unreadable"]]
        labels = torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False))
        views = [_mapped(folder / f"view-{v}.npy", photos) for v in range(about["views"])]
        if labels.shape != (photos,) or any(view.shape != (photos, tokens, width) for view in views):
            raise ValueError("its files do not fit together")
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ContractError(f"The cached features in {folder} cannot be read: {error}. Delete the folder.") from None
    if on_device is not None:
        views = [view.to(on_device) for view in views]
    return Features(views, labels), unreadable


def _mapped(path: Path, photos: int) -> torch.Tensor:
    """The first `photos` rows of a view, mapped read-only: a private writable map would count against memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.load(path, mmap_mode="r", allow_pickle=False)[:photos])
