"""Label sets: ordered names with ids and display names.

The order is data and is never recomputed: in the hub's Food-101 16 is cheesecake and 17 is cheese_plate, while sorting
the folder names (as torchvision does) swaps the two.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.errors import ContractError
from contract.files import write_text_atomic

MAX_LABELS = 10_000
MAX_NAME_LENGTH = 200  # characters

_SMALL_WORDS = {"and", "de", "of", "with", "la", "al", "in", "on", "the"}
_DISPLAY = {  # names whose display form is not their words with capitals
    "creme_brulee": "Crème Brûlée",
    "cup_cakes": "Cupcakes",
    "pho": "Phở",
    "pad_thai": "Pad Thai",
    "foie_gras": "Foie Gras",
}

# The order of features["label"].names in the hub's "food101" data set (huggingface/datasets, food101.py).
FOOD101_NAMES: tuple[str, ...] = tuple(
    """
    apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap bread_pudding
    breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheesecake cheese_plate
    chicken_curry chicken_quesadilla chicken_wings chocolate_cake chocolate_mousse churros clam_chowder
    club_sandwich crab_cakes creme_brulee croque_madame cup_cakes deviled_eggs donuts dumplings edamame
    eggs_benedict escargots falafel filet_mignon fish_and_chips foie_gras french_fries french_onion_soup
    french_toast fried_calamari fried_rice frozen_yogurt garlic_bread gnocchi greek_salad
    grilled_cheese_sandwich grilled_salmon guacamole gyoza hamburger hot_and_sour_soup hot_dog huevos_rancheros
    hummus ice_cream lasagna lobster_bisque lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels
    nachos omelette onion_rings oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop
    poutine prime_rib pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops
    seaweed_salad shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak
    strawberry_shortcake sushi tacos takoyaki tiramisu tuna_tartare waffles
    """.split()
)


class Label(BaseModel):
    """One class: `id` (its position), `name` (the data set's) and `display` (for people)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    name: str
    display: str


def match_key(text: str) -> str:
    """The form in which two spellings of a name are the same: no case, accents, punctuation or doubled spaces."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    return " ".join(kept.split())


def display_name(name: str) -> str:
    """`baby_back_ribs` → `Baby Back Ribs`."""
    if name in _DISPLAY:
        return _DISPLAY[name]
    words = name.replace("_", " ").split()
    return " ".join(word if i and word in _SMALL_WORDS else word[:1].upper() + word[1:] for i, word in enumerate(words))


def _is_text(name: str) -> bool:
    """Whether `name` can be written: a folder's name, and JSON, may hold half of a character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class LabelSet:
    """An ordered set of labels; ids are 0..n-1 in the order given.

    Raises `ContractError` for an empty set, more than `MAX_LABELS` names, an empty or over-long name, a name without
    a letter or digit or not in Unicode, or two names that read the same (case, accents and punctuation aside).
    """

    def __init__(self, labels: Iterable[Label]) -> None:
        self.labels: tuple[Label, ...] = tuple(labels)
        self._check()
        self._by_key = {match_key(label.name): label for label in self.labels}

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelSet:
        """Labels in the order given, with display names made from the names."""
        return cls(Label(id=i, name=name, display=display_name(name)) for i, name in enumerate(names))

    def _check(self) -> None:
        if not self.labels:
            raise ContractError("The label set is empty; give at least one label name.")
        if len(self.labels) > MAX_LABELS:
            raise ContractError(f"The label set has {len(self.labels)} names; at most {MAX_LABELS} are supported.")
        seen: dict[str, str] = {}
        for position, label in enumerate(self.labels):
            if label.id != position:
                raise ContractError(
                    f"Label {label.name!r} has id {label.id} at position {position}; ids must be 0..n-1."
                )
            if len(label.name) > MAX_NAME_LENGTH:
                raise ContractError(
                    f"Label {position} has a name of {len(label.name)} characters; at most 200 are allowed."
                )
            if not _is_text(label.name) or not _is_text(label.display):
                raise ContractError(f"Label {position} ({label.name!r}) is not written in UTF-8; rename it.")
            key = match_key(label.name)
            if not key:
                raise ContractError(f"Label {position} ({label.name!r}) has no letter or digit; give it a name.")
            if key in seen:
                raise ContractError(f"Labels {seen[key]!r} and {label.name!r} read the same; rename one of them.")
            seen[key] = label.name

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __getitem__(self, label_id: int) -> Label:
        if not 0 <= label_id < len(self.labels):
            raise ContractError(f"Label id {label_id} is out of range; this set has ids 0 to {len(self.labels) - 1}.")
        return self.labels[label_id]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self.labels == other.labels

    def __hash__(self) -> int:
        return hash(self.labels)

    @property
    def names(self) -> list[str]:
        """The data set's names in id order."""
        return [label.name for label in self.labels]

    def find(self, text: str) -> Label | None:
        """The label whose name reads like `text` (case, accents, punctuation aside), or None."""
        return self._by_key.get(match_key(text))

    def to_json(self) -> str:
        """`[{"id": 0, "name": "beignets", "display": "Beignets"}, …]`, one label a line."""
        rows = ",\n".join("  " + json.dumps(label.model_dump(), ensure_ascii=False) for label in self.labels)
        return f"[\n{rows}\n]\n"

    def save(self, path: Path) -> None:
        """Write `labels.json` atomically."""
        write_text_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> LabelSet:
        """Read `labels.json`, or a plain list of names (JSON strings, or one name a line in a .txt file).

        Raises `ContractError` when the file is missing or not of these forms.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ContractError(f"There is no label file at {path}.") from None
        except OSError as error:
            raise ContractError(f"The label file {path} cannot be read: {error}.") from None
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> LabelSet:
        """`load` for bytes that have been read; `path` says what they are and where they lay."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ContractError(f"The label file {path} cannot be read: {error}.") from None
        if path.suffix == ".txt":
            return cls.from_names(line.strip() for line in text.splitlines() if line.strip())
        try:
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise ContractError(f"The label file {path} must hold a JSON list.")
            if all(isinstance(row, str) for row in rows):
                return cls.from_names(rows)
            return cls(Label.model_validate(row) for row in rows)
        except (json.JSONDecodeError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise ContractError(f"The label file {path} is not a list of labels: {first}.") from None


FOOD101 = LabelSet.from_names(FOOD101_NAMES)
