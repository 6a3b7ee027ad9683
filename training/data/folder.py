"""Photos in folders, one per class: `photos/<class>/*.jpg`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from contract.errors import ContractError
from contract.labels import FOOD101, FOOD101_NAMES, LabelSet
from training.data.dataset import Photos, Source, digest, require
from training.data.splits import NO_VALIDATION, SingleError, share_of_each_class
from training.recipe import DataRecipe

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
Pairs = list[tuple[Path, int]]


class Files(Photos):
    """Photo files with their label ids."""

    def __init__(self, pairs: Sequence[tuple[Path, int]], size: int) -> None:
        super().__init__(size)
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def label(self, index: int) -> int:
        """The label id of one photo."""
        return self._pairs[index][1]

    def where(self, index: int) -> str:
        """The path of one photo."""
        return str(self._pairs[index][0])

    def read(self, index: int) -> bytes:
        """The bytes of one file. Raises `OSError`."""
        return self._pairs[index][0].read_bytes()


def open_unlabelled(root: Path, size: int) -> Files:
    """The photos below a folder, in sub-folders or not, sorted by path, all with the label id -1.

    What a hidden folder holds is left out, as hidden files are. Raises `ContractError` for a missing folder and for one
    without photos.
    """
    if not root.is_dir():
        raise ContractError(f"There is no folder of photos at {root}.")
    found = (path for path in root.rglob("*") if _is_photo(path))
    photos = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))
    if not photos:
        raise ContractError(f"The folder {root} has no photos ({', '.join(sorted(SUFFIXES))}).")
    return Files([(path, -1) for path in photos], size)


def open_folder(recipe: DataRecipe, size: int) -> Source:
    """The photos below `data.train` and `data.test`; without the latter a share of each class is held out.

    Held-out photos are taken first, then the validation share from the rest. Raises `ContractError`.
    """
    root = require(recipe.train, "data.train", "folder")
    if recipe.classes is not None or recipe.leave_out is not None:
        raise ContractError(
            "data.classes and data.leave_out are for the 'parquet' and 'hub' sources; to leave classes out of "
            "a folder of photos, move their folders elsewhere."
        )
    classes = _class_folders(Path(root))
    labels = _labels(recipe, list(classes))
    train = [(path, label.id) for label in labels for path in classes.get(label.name, [])]
    if recipe.test is not None:
        held = _class_folders(Path(recipe.test))
        unknown = sorted(set(held) - set(labels.names))
        if unknown:
            raise ContractError(f"{recipe.test} has classes that the training photos lack: {', '.join(unknown)}.")
        test = [(path, label.id) for label in labels for path in held.get(label.name, [])]
    else:
        train, test = _apart(
            train, recipe.held_out, "has one photo, so none can be held out. Add photos, or give data.test."
        )
    validation: Pairs = []
    if recipe.validation:
        says = f"has one training photo, so none can be kept for validation. {NO_VALIDATION}"
        train, validation = _apart(train, recipe.validation, says)
    parts = {"train": train, "validation": validation, "test": test}
    return Source(
        labels,
        Files(train, size),
        Files(validation, size) if validation else None,
        Files(test, size),
        len(train),
        {
            "source": "folder",
            **{name: len(pairs) for name, pairs in parts.items()},
            "sha256": digest(line for name, pairs in parts.items() for line in _listing(name, pairs)),
        },
    )


def _apart(pairs: Pairs, share: float, says: str) -> tuple[Pairs, Pairs]:
    """What stays and what is kept apart."""
    try:
        apart = share_of_each_class([label for _, label in pairs], [_name(path) for path, _ in pairs], share)
    except SingleError as error:
        path = next(path for path, label in pairs if label == error.label)
        raise ContractError(f"The class {path.parent.name!r} {says}") from None
    return (
        [pair for pair, taken in zip(pairs, apart, strict=True) if not taken],
        [pair for pair, taken in zip(pairs, apart, strict=True) if taken],
    )


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Class name → its photos, both sorted by name. Raises `ContractError` for a missing folder or an empty class."""
    if not root.is_dir():
        raise ContractError(f"There is no folder of photos at {root}.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ContractError(f"{root} has no class folders; put the photos in {root}/<class>/.")
    classes = {f.name: sorted(p for p in f.rglob("*") if _is_photo(p)) for f in folders}
    for name, photos in classes.items():
        if not photos:
            raise ContractError(f"The class folder {root / name} has no photos ({', '.join(sorted(SUFFIXES))}).")
    return classes


def _is_photo(path: Path) -> bool:
    """Hidden files are left out: archives from a Mac hold one beside each photo."""
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _labels(recipe: DataRecipe, names: list[str]) -> LabelSet:
    if recipe.labels is not None:
        labels = LabelSet.load(Path(recipe.labels))
        missing = sorted(set(names) - set(labels.names))
        if missing:
            raise ContractError(f"{recipe.labels} does not list these classes of the photos: {', '.join(missing)}.")
        return labels
    return FOOD101 if set(names) == set(FOOD101_NAMES) else LabelSet.from_names(names)


def _listing(part: str, pairs: Pairs) -> Iterator[str]:
    for path, label in pairs:
        yield f"{part}\0{_name(path)}\0{path.stat().st_size}\0{label}"
