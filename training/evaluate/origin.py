"""Where weights and photos come from, as a card may tell it: never by a path of this disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its own check, behind no public name

from modeling.checkpoint import CARD_FILE, names_folder
from modeling.towers import Tower

UNKNOWN = "unknown"  # the hub's word
BASE_LICENCES = {  # of bases on the hub, as their own cards say
    "Salesforce/blip-image-captioning-base": "bsd-3-clause",
    "Salesforce/blip-image-captioning-large": "bsd-3-clause",
}
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the hub's spelling of one


def base_on_hub(base: str | None) -> str | None:
    """`base` if it is a hub name, else None.

    A record keeps what was typed, and `models/blip` may be either once the folder is gone. So only a
    base counts that is known, or that this machine had from the hub: a card without a base says
    less, but nothing wrong.
    """
    if base is None or not _may_be_on_hub(base):
        return None
    known = base in BASE_LICENCES or isinstance(try_to_load_from_cache(base, "config.json"), str)
    return base if known else None


def data_on_hub(data: dict[str, Any]) -> str | None:
    """The hub name of the data with this fingerprint; None for folders, files and drawings."""
    name = data.get("name")
    return name if data.get("source") == "hub" and isinstance(name, str) and _may_be_on_hub(name) else None


def licence_found(tower: Tower, base: str | None) -> str:
    """The licence of the starting weights in the hub's spelling, `UNKNOWN` where nothing names it.

    Of a base it is the base's own, which a folder's card may name; without one, the pretrained
    tower's.
    """
    if base is None:
        return (tower.licence or UNKNOWN).lower()
    if not names_folder(base):
        return BASE_LICENCES.get(base, UNKNOWN)
    try:
        named = front_matter((Path(base) / CARD_FILE).read_text(encoding="utf-8-sig")).get("license")
    except (OSError, ValueError):
        return UNKNOWN
    return named if isinstance(named, str) and LICENCE.fullmatch(named) else UNKNOWN


def front_matter(card: str) -> dict[str, Any]:
    """The metadata at the beginning of a card's text; empty where it has none. Raises `ValueError`."""
    block = REGEX_YAML_BLOCK.search(card)
    try:
        found = yaml.safe_load(block[2]) if block else None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError("it is not a list of keys with values")
    return found


def _may_be_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not names_folder(name)
