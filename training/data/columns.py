"""Tables of photos: which column is the image, which the label, and which classes are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contract.errors import ContractError
from contract.labels import LabelSet
from training.recipe import DataRecipe


@dataclass(frozen=True)
class Columns:
    """Column names, the wanted classes as a label set in the data's order, and the data's label id → id there or -1."""

    image: str
    label: str
    labels: LabelSet
    new_id: tuple[int, ...]

    @property
    def restricted(self) -> bool:
        """Whether some classes are left out."""
        return len(self.labels) < len(self.new_id)

    def wrong_label(self, row: str, value: object) -> ContractError:
        """The error for a row whose label is no id of the data's label set."""
        return ContractError(
            f"The label of {row} is {value}; the data's labels are 0 to {len(self.new_id) - 1} (column {self.label!r}). "
            "Correct that row, or remove it from the data."
        )


def read_columns(features: Any, recipe: DataRecipe) -> Columns:
    """The columns of a data set with these `datasets.Features`.

    Raises `ContractError` unless there are one image and one class label column, and for a class name in
    `data.classes` or `data.leave_out` that the data does not know.
    """
    from datasets import ClassLabel, Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise ContractError(f"The data needs one image and one class label column; it has {dict(features)}.")
    names: list[str] = features[labels[0]].names
    wanted = [name for name in names if _wanted(name, recipe)]
    for key, given in (("classes", recipe.classes), ("leave_out", recipe.leave_out)):
        unknown = sorted(set(given or []) - set(names))
        if unknown:
            raise ContractError(f"data.{key} names classes that the data does not have: {', '.join(unknown)}.")
    if not wanted:
        raise ContractError("data.classes or data.leave_out leaves no class of the data; keep at least two.")
    new = {name: position for position, name in enumerate(wanted)}
    return Columns(images[0], labels[0], LabelSet.from_names(wanted), tuple(new.get(name, -1) for name in names))


def _wanted(name: str, recipe: DataRecipe) -> bool:
    return (recipe.classes is None or name in recipe.classes) and name not in (recipe.leave_out or [])


def undecoded(rows: Any, image: str) -> Any:
    """The rows with the image column as bytes and path instead of a decoded picture."""
    from datasets import Image

    return rows.cast_column(image, Image(decode=False))


def photo_bytes(cell: Any) -> bytes:
    """The photo of one undecoded cell; empty for none. Raises `OSError` when the cell names a file that is gone."""
    if cell is None:
        return b""
    if cell["bytes"] is None and cell["path"]:
        with open(cell["path"], "rb") as file:
            return file.read()
    return cell["bytes"] or b""


def reason(error: BaseException) -> str:
    """What went wrong inside the datasets library, in one line; it often wraps the cause in a general error."""
    error = error.__cause__ or error
    if "BatchSize must be greater than 0" in str(error):  # what datasets 5.2 makes of an empty row group
        return "a file has no rows"
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
