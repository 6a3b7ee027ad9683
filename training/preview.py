"""What the model is shown: augmented photos with the captions it learns from them, on one picture; and held-out photos.

captions = preview_captions([caption.render(label) for label in labels], batch.labels, partner, share)
contact_sheet(batch.pixels[:24], augmented[:24], captions[:24], out / "preview.png")
"""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import Dataset

from contract.errors import ContractError
from contract.files import check_can_write, new_folder, write_bytes_atomic, write_text_atomic
from training.data.augment import Augmenter, blend, mixup
from training.data.dataset import Item, Photos, Source
from training.data.loading import BadPhotos, batches
from training.data.stream import Stream
from training.recipe import Recipe
from training.state import stream_seed

PHOTOS = 24
PHOTO = 200  # pixels a side of an augmented photo on the sheet
ORIGINAL = 72  # of the original beside it
GAP = 12
TEXT = 13  # pixels of the font
LINES = 3  # of caption; what is longer ends in …
LINE = 17
EXAMPLES = 16  # held-out photos that are written, of as many classes
EXAMPLES_FILE = "examples.json"


def preview_captions(
    texts: Sequence[str], labels: torch.Tensor, partner: torch.Tensor, share: torch.Tensor
) -> list[str]:
    """The caption of each photo of a batch after `augment.mixup`: `0.70 × … + 0.30 × …` where two are mixed.

    `texts` holds the caption of each label id; `labels` and `partner` are int64 [B], `share` is float [B].
    """
    captions = []
    for own, other, part in zip(labels.tolist(), labels[partner].tolist(), share.tolist(), strict=True):
        whole = own == other or part > 0.995
        captions.append(texts[own] if whole else f"{part:.2f} × {texts[own]} + {1 - part:.2f} × {texts[other]}")
    return captions


def contact_sheet(before: torch.Tensor, after: torch.Tensor, captions: Sequence[str], path: Path) -> None:
    """Write a PNG with a cell for each photo: augmented, a small original beside it, the caption below; atomically.

    `before` is uint8 [N, S, S, 3], `after` float [N, S, S, 3] in 0..255 (clamped and rounded here), `captions` holds N
    strings. 24 photos make six columns. Raises `ValueError` when there are no photos or the numbers differ.
    """
    if not len(before) == len(after) == len(captions) > 0:
        raise ValueError(f"Expected as many photos as captions, got {len(before)}, {len(after)} and {len(captions)}.")
    font = _font()
    columns = max(1, round(math.sqrt(1.5 * len(captions))))
    rows = math.ceil(len(captions) / columns)
    width, height = PHOTO + 6 + ORIGINAL, PHOTO + 6 + LINES * LINE
    letters = int(width // font.getlength("m"))
    size = (GAP + columns * (width + GAP), GAP + rows * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    shown = after.detach().cpu().float().round().clamp(0, 255).to(torch.uint8)
    for i, caption in enumerate(captions):
        x, y = GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)
        sheet.paste(_picture(shown[i], PHOTO), (x, y))
        sheet.paste(_picture(before[i], ORIGINAL), (x + PHOTO + 6, y))
        for number, line in enumerate(textwrap.wrap(caption, letters, max_lines=LINES, placeholder="…")):
            pen.text((x, y + PHOTO + 6 + number * LINE), line, fill="black", font=font)
    image = io.BytesIO()
    sheet.save(image, format="PNG")
    write_bytes_atomic(path, image.getvalue())


def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # late: the rest of this module is light

    # Pillow's own font has no × and no accented letters; in this one all letters are as wide.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf", TEXT)


def _picture(pixels: torch.Tensor, size: int) -> Image.Image:
    return Image.fromarray(pixels.cpu().numpy()).resize((size, size), Image.Resampling.BICUBIC)


def show(recipe: Recipe, sheet: Path | None, examples: Path | None, *, replace: bool) -> int:
    """Write the contact sheet of a recipe's first training batch, as training would see it, and its held-out photos.

    Each is left out where it is None; `replace` lets a folder of held-out photos be written anew. Returns the exit
    code 0. Raises `ContractError` for what cannot be opened or is not to be replaced.
    """
    from modeling.load import base_image_size
    from training.data.sources import open_source  # late: the sheet itself needs no data

    if examples is not None:
        check_can_write(examples, marker=EXAMPLES_FILE, replace=replace)
    size = recipe.model.image_size if recipe.model.base is None else base_image_size(recipe.model.base)
    source = open_source(recipe.data, size, seed=recipe.seed)
    if sheet is not None:
        _write_sheet(recipe, source, sheet)
    if examples is not None:
        _write_examples(source, examples, replace=replace)
    return 0


def _write_sheet(recipe: Recipe, source: Source, path: Path) -> None:
    bad = BadPhotos(recipe.data.on_bad_image)
    loaded = batches(source.train, bad, batch_size=PHOTOS, workers=recipe.data.workers, seed=recipe.seed)
    batch = next((batch for batch in loaded if len(batch.labels)), None)
    if batch is None:
        raise ContractError(f"No photo could be read ({bad.first}).")
    torch.manual_seed(stream_seed(recipe.seed, "step", 0, 0))
    after = Augmenter(recipe.augment, batch.pixels.shape[1], "cpu")(batch.pixels)
    partner, share, _ = mixup(batch.labels, len(source.labels), recipe.augment.mixup)
    texts = [recipe.caption.render(label) for label in source.labels]
    captions = preview_captions(texts, batch.labels, partner, share)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(batch.pixels, blend(after, partner, share), captions, path)
    print(f"{len(captions)} photos of {len(source.labels)} classes: {path}")


def _write_examples(source: Source, path: Path, *, replace: bool) -> None:
    """The first held-out photo of each of the first 16 classes, as the model sees it (PNG, S x S).

    `examples.json` beside them lists `file`, `label`, its `display` name and `where` the photo is from.
    """
    found: list[dict[str, str]] = []
    with new_folder(path, marker=EXAMPLES_FILE, replace=replace) as folder:
        for item in _of_each_class(source.test, min(EXAMPLES, len(source.labels))):
            assert item.pixels is not None
            file, label = f"{len(found):02}.png", source.labels[item.label]
            Image.fromarray(item.pixels.numpy()).save(folder / file)
            found.append({"file": file, "label": label.name, "display": label.display, "where": item.where})
        if not found:
            raise ContractError("None of the held-out photos can be read.")
        write_text_atomic(folder / EXAMPLES_FILE, json.dumps(found, indent=2) + "\n")
    print(f"{len(found)} held-out photos of as many classes: {path}")


def _of_each_class(test: Dataset[Item], classes: int) -> Iterator[Item]:
    """Photos of the test part until `classes` classes had one that could be read; others are not decoded."""
    had: set[int] = set()
    lazy: Iterator[tuple[int, Any]]
    if isinstance(test, Stream):
        lazy = ((raw.label, raw) for raw in test.raw_rows())
        decode: Any = test.item
    elif isinstance(test, Photos):
        lazy = ((test.label(index), index) for index in range(len(test)))
        decode = test.__getitem__
    else:  # drawn
        lazy = ((index, index) for index in range(len(test)))  # type: ignore[arg-type]
        decode = test.__getitem__
    for label, one in lazy:
        if len(had) == classes:
            return
        if label in had:
            continue
        item = decode(one)
        if item.pixels is not None:
            had.add(item.label)
            yield item
