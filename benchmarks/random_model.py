"""BLIP with random weights, its bundles and random pictures: what the engine benchmark runs, made without a network.

Time does not depend on the weights' values, so random ones do; agreement between contestants is exact arithmetic, so
random ones do for that too. Accuracy cannot be told from them.

A work folder keeps what was made. Its entries are named by a digest of everything that shapes them: shapes, seed,
precision, opset, package versions and the sources of `export`, `contract` and `modeling`: an old export is never measured.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from contract.bundle import MANIFEST_FILE, Bundle, read_bundle
from contract.caption import CaptionFormat
from contract.labels import FOOD101
from contract.pixels import Pixels
from contract.precision import Precision
from export.bundle import GraphWriter, export_bundle
from export.inspect.__main__ import inspect_bundle
from modeling.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from modeling.vocabulary import SPECIAL, caption_vocabulary
from training.model import initial_blip
from training.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 30524  # BLIP's own: BERT's 30,522 pieces, [DEC] and [ENC]
SHAPES = {
    "base": [
        "model.image_size=384", "model.patch_size=16", "model.vision_layers=12", "model.vision_width=768",
        "model.text_layers=12", "model.text_width=768", "model.heads=12",
    ],
    "small": [  # between the two: an engine call that is long beside HTTP and decoding, and short enough for many of them
        "model.image_size=96", "model.patch_size=16", "model.vision_layers=6", "model.vision_width=384",
        "model.text_layers=2", "model.text_width=384", "model.heads=6",
    ],
    "tiny": [
        "model.image_size=32", "model.patch_size=8", "model.vision_layers=1", "model.vision_width=64",
        "model.text_layers=1", "model.text_width=64", "model.heads=4",
    ],
}  # fmt: skip
OPSET = 23  # what export writes for the CPU and CUDA providers
GAIN = (
    1.5  # standard deviation of the decoder's weights, times the root of their width: at 0.02 all pictures look alike
)


@dataclass(frozen=True)
class RandomModel:
    """A random checkpoint in a work folder; bundles of it are exported when asked for."""

    shapes: str
    seed: int
    work: Path
    checkpoint: Checkpoint

    def bundle(self, precision: Precision, graphs: GraphWriter | None = None) -> Bundle:
        """The verified bundle at `precision`, exported without the gate if the work folder has none.

        Nothing is compared here: whoever measures compares answers, and the bundle keeps PyTorch's own for its
        self-check. `graphs` writes graphs and weights instead of the export. Raises `ContractError` where this precision
        cannot be exported.
        """
        path = self.work / f"bundle-{_key(self.shapes, self.seed, precision)}"
        if not (path / MANIFEST_FILE).is_file():
            export_bundle(
                self.checkpoint, path, name=f"random-{self.shapes}", opset=OPSET, precision=precision, gate=False,
                compare=False, graphs=graphs,
            )  # fmt: skip
        return read_bundle(path)

    def flops(self) -> tuple[int, dict[str, int]]:
        """Floating-point operations to label one image, from the fp32 graphs, and operators left out of the count."""
        inspection = inspect_bundle(self.bundle("fp32").path)
        missing: dict[str, int] = {}
        for file in inspection.label_flops:
            for name, count in inspection.graphs[file].not_counted.items():
                missing[name] = missing.get(name, 0) + count
        return sum(inspection.label_flops.values()), missing

    def pictures(self, count: int) -> Pixels:
        """uint8 pixels [count, S, S, 3]: random colours on a coarse grid with noise, from flat to busy."""
        size = int(self.checkpoint.model.config.vision_config.image_size)
        rng = np.random.default_rng(self.seed)
        coarse = rng.uniform(0, 255, (count, 8, 8, 3))
        place = np.arange(size) * 8 // size
        noise = rng.normal(0, 1, (count, size, size, 3)) * rng.uniform(0, 60, (count, 1, 1, 1))
        return np.clip(coarse[:, place][:, :, place] + noise, 0, 255).astype(np.uint8)


def random_model(shapes: str, work: Path, seed: int = 0) -> RandomModel:
    """The model of `shapes` (a key of `SHAPES`), the same weights for the same seed, from `work` if it is there."""
    disable_progress_bar()
    path = work / f"checkpoint-{_key(shapes, seed, 'checkpoint')}"
    if not (path / "config.json").is_file():
        _make(shapes, seed, path, work)
    return RandomModel(shapes, seed, work, load_checkpoint(path, FOOD101, CaptionFormat()))


def _make(shapes: str, seed: int, path: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    vocabulary = write_vocabulary(work)
    overrides = [*SHAPES[shapes], f"seed={seed}", f"model.vocabulary={vocabulary}"]
    blip = initial_blip(load_recipe("drawn-scratch", overrides), FOOD101)
    with torch.no_grad():
        for name, parameter in blip.model.text_decoder.named_parameters():
            if parameter.ndim == 2 and "embeddings" not in name and "predictions.decoder" not in name:
                parameter.mul_(GAIN / 0.02 / parameter.shape[1] ** 0.5)
    save_checkpoint(path, blip, FOOD101, None, replace=False)


def write_vocabulary(folder: Path) -> Path:
    """A WordPiece vocab.txt of BLIP's size in `folder`; returns its path."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(_pieces()) + "\n", encoding="utf-8")
    return path


def _pieces() -> list[str]:
    """A vocabulary of BLIP's size without BERT's list: the captions' words, then places that no caption uses."""
    pieces = list(caption_vocabulary(CaptionFormat().render(label) for label in FOOD101))
    unused = (f"[unused{i}]" for i in range(VOCABULARY))
    pieces += [next(unused) for _ in range(VOCABULARY - 2 - len(pieces))]
    assert pieces[: len(SPECIAL)] == list(SPECIAL)
    return pieces


def _key(shapes: str, seed: int, part: str) -> str:
    packages = ("torch", "transformers", "onnx", "onnxscript", "optimum")
    made_by = {
        "shapes": SHAPES[shapes], "seed": seed, "part": part, "opset": OPSET, "gain": GAIN,
        "versions": {name: importlib.metadata.version(name) for name in packages}, "sources": _sources(),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
    return f"{shapes}-{part}-{digest[:16]}"


@functools.cache
def _sources(root: Path = ROOT) -> str:
    """A digest of all code that makes a bundle."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    rooms = ("contract", "export", "modeling")
    made_by = [*(path for room in rooms for path in (root / room).rglob("*.py")), root / "training" / "model.py"]
    for path in sorted(made_by):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
