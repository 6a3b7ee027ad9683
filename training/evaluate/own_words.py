"""What somebody wrote into a checkpoint's card: read before it is written anew, so that it is kept."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.errors import ContractError
from contract.files import write_text_atomic
from modeling.checkpoint import CARD_FILE
from training.evaluate.origin import UNKNOWN, front_matter

LINE = "<!-- Your own words below this line are kept. -->"
FOUND = re.compile(
    r"<!-- licence found: (\S+) -->"
)  # what the card itself wrote: another in its metadata is somebody's
FIGURES = ("model-index", "model_name", "eval_results")  # the last two are huggingface_hub's words for the first
WRITTEN = (  # keys of the metadata that a card writes, where it knows them
    "license", "library_name", "pipeline_tag", "tags", "base_model", "base_model_relation", "datasets", "metrics",
)  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What is kept of an older card.

    words     all below `LINE`, as it is
    metadata  keys that stay unless the new card has its own
    licence   the one that somebody set, of whatever type YAML gives it; None: nobody did
    found     the licence that the older card had found itself
    tags      all of its tags
    """

    words: str = "\n"
    metadata: dict[str, Any] = field(default_factory=dict)
    licence: Any = None
    found: str = UNKNOWN
    tags: tuple[str, ...] = ()


def read_kept(folder: Path, *, same_model: bool) -> Kept:
    """What to keep of the card in a checkpoint's folder; nothing where there is none.

    With `same_model` that includes what the older card knew and the new one cannot find out, such as
    the base of a checkpoint that was moved to another machine; else all that it said of its model is
    dropped. Raises `ContractError` for a README.md that is no such card, or whose metadata cannot be
    read.
    """
    path = folder / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return Kept()
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} cannot be read: {error}. Move it away, or mend it.") from None
    try:
        metadata, body = front_matter(text)
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ContractError(
            f"The metadata of {path}, between its --- lines, cannot be read: {reason}. Mend it, or move the file away."
        ) from None
    card, line, words = body.partition(LINE)
    if not line:
        raise ContractError(
            f"{path} is no card that can be written anew without losing what you wrote: it lacks the line {LINE} "
            "Put that line above the words that are to be kept, or move the file away."
        )
    found, licence, tags = FOUND.search(card), metadata.get("license"), metadata.get("tags")
    own = found[1] if found else UNKNOWN
    tags = [tags] if isinstance(tags, str) else tags
    dropped = FIGURES if same_model else FIGURES + WRITTEN
    return Kept(
        words=words,
        metadata={key: value for key, value in metadata.items() if key not in dropped},
        licence=None if licence in (None, "", UNKNOWN, own) else licence,
        found=own if same_model else UNKNOWN,
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
    )


def check_can_write_card(folder: Path) -> None:
    """Raise `ContractError` if `write_card` could not write, or would lose words: call it before long work."""
    read_kept(folder, same_model=True)
    if not os.access(folder, os.W_OK):
        raise ContractError(f"The folder {folder} cannot be written, so no card can: copy it, or leave out --card.")


def write_card(folder: Path, text: str) -> None:
    """Write the card of a checkpoint's folder atomically. Raises `ContractError` when it cannot be written."""
    try:
        write_text_atomic(folder / CARD_FILE, text)
    except OSError as error:
        reason = error.strerror or error
        raise ContractError(
            f"The card {folder / CARD_FILE} could not be written: {reason}. Make room, then run it again."
        ) from None
