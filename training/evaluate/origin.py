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
        named = front_matter((Path(base) / CARD_FILE).read_text(encoding="utf-8-sig"))[0].get("license")
    except (OSError, ValueError):
        return UNKNOWN
    return named if isinstance(named, str) and LICENCE.fullmatch(named) else UNKNOWN


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """The metadata at the beginning of a card's text, empty where it has none, and the text behind it.

    Raises `ValueError` for metadata that cannot be read.
    """
    block = REGEX_YAML_BLOCK.search(card)
    if block is None:
        if card.startswith("---\n"):
            raise ValueError("the second of these lines is missing")
        return {}, card
    try:
        found = _Yaml(block[2]).get_single_data()
    except Exception as error:  # beside its own, PyYAML lets half a dozen types through
        raise ValueError(str(error)) from None
    if found is None:
        found = {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError("it is not a list of keys with values")
    return found, card[block.end() :]


class _Yaml(yaml.SafeLoader):
    """As the hub reads YAML (1.2): `no` is Norwegian, and `2026-11-28`, `12:30:00` and `1_000` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # of the base class


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-+0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _may_be_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not names_folder(name)
