"""Recipes: every choice of a training run, in one TOML file with units, checked before anything starts.

A recipe is one of the names in `training/recipes/` or the path of a .toml file. `--set section.key=value` overrides
one value; an unknown key is refused.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.caption import CaptionFormat
from contract.errors import ContractError
from contract.familiarity import MOST_PHOTOS, NEIGHBOURS

RECIPES = Path(__file__).parent / "recipes"
LEAST_REMEMBERED = NEIGHBOURS + 2  # training photos: each has neighbours when it is left out with another
FREEZE_PATTERN = r"^(decoder|all|last-[1-9][0-9]?-vision-blocks)$"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecipe(_Section):
    """Where the photos come from. Which keys a source needs is checked by the source."""

    source: Literal["drawn", "folder", "parquet", "hub"] = Field(description="where the photos come from")
    train: str | None = Field(default=None, description="folder or parquet file(s) of the training photos")
    test: str | None = Field(default=None, description="the same for the held-out photos")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share held out when a folder has no test part")
    validation: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of each class kept from training to choose the best weights and fit the temperature; 0: none",
    )
    classes: list[str] | None = Field(
        default=None, description="only these classes, in the data's order (parquet, hub)"
    )
    leave_out: list[str] | None = Field(default=None, description="all classes but these (parquet, hub)")
    name: str | None = Field(default=None, description="hub data set, such as food101")
    train_split: str = Field(default="train", description="split name of a hub data set")
    test_split: str = Field(default="validation", description="split name of a hub data set")
    labels: str | None = Field(default=None, description="label file that fixes the order of a folder's classes")
    train_count: int = Field(default=4096, ge=2, description="drawn pictures to train on")
    test_count: int = Field(default=320, ge=2, description="drawn pictures held out")
    on_bad_image: Literal["stop", "skip"] = Field(
        default="stop", description="unreadable photo: stop, or skip and count"
    )
    preload: bool = Field(default=False, description="decode all photos once into memory (S*S*3 bytes each)")
    workers: int = Field(default=2, ge=0, le=64, description="decoding processes (threads for a stream)")
    streaming: bool = Field(default=False, description="read a hub data set as it is used, without a copy on disk")
    shuffle_buffer: int = Field(default=16384, ge=1, description="photos held while shuffling a stream")
    shuffle_shards: int = Field(default=128, ge=1, le=4096, description="parts of a stream read at the same time")
    least_entropy: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="stop when the label entropy of a stream's first batches is below this share of a fair shuffle's",
    )


class ModelRecipe(_Section):
    """The model to start from: `base` (hub name or folder), or a new text decoder of the given shape on a tower.

    A new `blip-vit` has random weights; `efficientnet-lite0` is pretrained and comes from a package.
    """

    tower: Literal["blip-vit", "efficientnet-lite0"] = Field(
        default="blip-vit", description="image tower: BLIP's own, or a small pretrained one (extra `tower`, no hub)"
    )
    base: str | None = Field(default=None, description="hub name or checkpoint folder; none: a new small BLIP")
    base_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="hex digest that base's pytorch_model.bin must have, where it has no safetensors; none: recorded",
    )
    image_size: int = Field(
        default=64, ge=16, le=1024, description="pixels a side (a new model); efficientnet-lite0: 224"
    )
    patch_size: int = Field(default=8, ge=4, le=64, description="pixels a side (a new blip-vit)")
    vision_layers: int = Field(default=4, ge=1, le=48, description="blocks of the image tower (a new blip-vit)")
    vision_width: int = Field(default=128, ge=16, le=4096, description="channels of the image tower (a new blip-vit)")
    text_layers: int = Field(default=2, ge=1, le=48, description="layers of a new text decoder")
    text_width: int = Field(default=128, ge=16, le=4096, description="channels of a new text decoder")
    heads: int = Field(default=4, ge=1, le=64, description="attention heads of both parts (a new model)")
    vocabulary: str | None = Field(default=None, description="WordPiece vocab.txt; none: made from the captions")
    new_decoder: bool = Field(
        default=False, description="keep the image tower of base, start a new text decoder of the text_ shape"
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelRecipe:
        patch = self.patch_size if self.tower == "blip-vit" else 32
        if self.base is None and self.image_size % patch:  # a base has its own
            named = f"patch_size {patch}" if self.tower == "blip-vit" else f"{patch}, as {self.tower} needs"
            near = max(1, round(self.image_size / patch)) * patch
            raise ValueError(f"image_size {self.image_size} is not a multiple of {named}; {near} is")
        for width in (self.vision_width, self.text_width):
            if width % self.heads:
                raise ValueError(f"width {width} is not a multiple of heads {self.heads}")
        return self


class AugmentRecipe(_Section):
    """Random changes of the training photos, made in batches on the device."""

    flip: bool = Field(default=True, description="mirror half of the photos")
    crop: float = Field(
        default=1.0, gt=0, le=1, description="smallest share of a photo's area that a random crop keeps; 1: no crop"
    )
    rotate: float = Field(default=0.0, ge=0, le=180, description="largest rotation to either side, degrees; 0: none")
    colour: float = Field(
        default=0.0, ge=0, le=1, description="largest relative change of brightness, contrast and saturation; 0: none"
    )
    rand_augment: int = Field(default=0, ge=0, le=10, description="RandAugment: operations a photo; 0: off")
    rand_magnitude: int = Field(default=9, ge=1, le=30, description="RandAugment: strength, 1 to 30")
    mixup: float = Field(
        default=0.0, ge=0, le=8, description="mixup: alpha of the Beta(alpha, alpha) share of the second photo; 0: off"
    )


class CacheRecipe(_Section):
    """The frozen image tower's outputs, kept so that an epoch needs the text decoder only."""

    views: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="views of each photo that are kept: as it is, then augmented; epoch e uses e mod views; 0: off",
    )
    folder: str = Field(default="build/features", description="where; entries are keyed by weights, data and views")
    on: Literal["disk", "device"] = Field(
        default="disk", description="memory-mapped fp16 on disk, or read into the device's memory as well"
    )


class TrainRecipe(_Section):
    """The optimisation."""

    freeze: str = Field(
        default="decoder",
        pattern=FREEZE_PATTERN,
        description="what trains: decoder, all, or last-N-vision-blocks (and the decoder)",
    )
    freeze_embeddings: bool = Field(default=False, description="also keep the tied word embeddings as they are")
    epochs: int = Field(default=10, ge=1, le=10_000, description="passes over the training photos")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="photos an optimiser step, over all processes")
    accumulate: int = Field(
        default=1, ge=1, le=4096, description="pieces that a process splits its batch into, when memory is short"
    )
    learning_rate: float = Field(default=3e-5, gt=0, le=1, description="peak of AdamW's learning rate")
    final_rate: float = Field(default=0.01, ge=0, le=1, description="last learning rate as a share of the peak")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(default=0.05, ge=0, description="none on biases and layer norms")
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="autocast type of the forward pass; weights and optimiser stay fp32"
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay a step of the weights' moving average, which is what is kept; 0: off",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all labels")
    caption_weight: float = Field(
        default=0.1,
        ge=0,
        description="weight of the language-model term over the whole caption, which keeps free captions in form; 0: off",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="drop-out in the text decoder")
    channel_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of the image tokens' channels left out, others for each photo"
    )
    absorbed: bool = Field(
        default=True, description="cross-attention without projecting every image token: same result, less work"
    )
    validate_every: int = Field(default=1, ge=1, description="epochs between validations")
    best_by: Literal["accuracy", "loss"] = Field(
        default="accuracy",
        description="what the best validation has: of few photos the loss, before the temperature, tells more",
    )
    patience: int = Field(default=0, ge=0, description="stop after so many validations without a better one; 0: never")
    save_every: int = Field(
        default=500, ge=0, description="steps between states to go on from after a stop; 0: after each epoch only"
    )


class FamiliarityRecipe(_Section):
    """The training photos that a checkpoint remembers, to tell what looks like none of them."""

    photos: int = Field(
        default=MOST_PHOTOS,
        ge=0,
        le=MOST_PHOTOS,
        description="training photos, drawn at random, that new ones are compared with; 0: none",
    )

    @model_validator(mode="after")
    def _enough(self) -> FamiliarityRecipe:
        if 0 < self.photos < LEAST_REMEMBERED:
            raise ValueError(
                f"photos {self.photos} are too few: each photo is compared with its {NEIGHBOURS} nearest others; "
                f"give {LEAST_REMEMBERED} or more, or 0 for none"
            )
        return self


class Recipe(_Section):
    """One training run."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="start of every random stream")
    caption: CaptionFormat = CaptionFormat()
    data: DataRecipe
    model: ModelRecipe = ModelRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    cache: CacheRecipe = CacheRecipe()
    train: TrainRecipe = TrainRecipe()
    familiarity: FamiliarityRecipe = FamiliarityRecipe()

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        if self.model.new_decoder and self.model.base is None:
            raise ValueError("model.new_decoder needs model.base, whose image tower is kept")
        if self.model.base_sha256 is not None and self.model.base is None:
            raise ValueError("model.base_sha256 needs model.base, whose weights it is the digest of")
        if self.cache.views and self.train.freeze != "decoder":
            raise ValueError(
                "cache.views needs train.freeze = 'decoder': outputs of a tower that trains cannot be kept"
            )
        if self.cache.views and self.data.streaming:
            raise ValueError("cache.views needs data.streaming = false: a stream's photos have no fixed order")
        if self.data.classes is not None and self.data.leave_out is not None:
            raise ValueError("give data.classes or data.leave_out, not both")
        return self


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def settings_table() -> str:
    """Every setting with its default and what it means, for `--settings`."""
    lines = []
    for name, section in Recipe.model_fields.items():
        inner = getattr(section.annotation, "model_fields", None)
        for key, field in (inner or {"": section}).items():
            default = "required" if field.is_required() else repr(field.default)
            path = f"{name}.{key}" if key else name
            lines.append(f"{path:26} {default:22} {field.description or ''}")
    return "\n".join(lines)


def load_recipe(name_or_path: str, overrides: list[str]) -> Recipe:
    """A recipe by name or path with `section.key=value` overrides (values in TOML syntax, or plain text).

    Raises `ContractError` with a sentence that names the key and what is allowed.
    """
    path = RECIPES / f"{name_or_path}.toml" if name_or_path in recipe_names() else Path(name_or_path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ContractError(
            f"There is no recipe {name_or_path!r}; use one of {recipe_names()} or a .toml file."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ContractError(f"The recipe {path} cannot be read: {error}.") from None
    apply_overrides(values, overrides)
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], origin: str) -> Recipe:
    """Check the values of a recipe. Raises `ContractError`; `origin` names where they came from."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ContractError(f"{origin}: there is no setting {where!r}; {_known_keys(first['loc'])}.") from None
        says = first["msg"].removeprefix("Value error, ")
        given = f", not {first['input']!r}" if first["type"] == "literal_error" else ""
        raise ContractError(f"{origin}: {where or 'recipe'}: {says}{given}.") from None


def with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """A dumped recipe (JSON values) with the default of every setting that it lacks."""
    defaults = Recipe(data=DataRecipe(source="drawn")).model_dump(mode="json")
    del defaults["data"]["source"]  # the one setting that has none
    complete = defaults | recipe
    for name, default in defaults.items():
        if isinstance(default, dict) and isinstance(complete[name], dict):
            complete[name] = default | complete[name]
    return complete


def _known_keys(location: tuple[int | str, ...]) -> str:
    section: Any = Recipe
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    known = sorted(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known are {', '.join(known)}"


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> None:
    """Apply `section.key=value` overrides to the values of a recipe, in place."""
    for override in overrides:
        _override(values, override)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ContractError(f"--set takes section.key=value, got {override!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ContractError(f"--set {override}: {section!r} is a value, not a section.")
    values[last] = value
