"""Three ways to decode a caption on a CPU, measured beside each other on BLIP-base's shapes with random weights.

    python -m benchmarks.captions --work build/captions

prefix       decoder.onnx: the whole prefix again at every step, cross-attention absorbed (no cache)
cache        decoder_step.onnx: a cache of the self-attention, cross-attention absorbed
projected    the textbook form: the same cache, and the keys and values of all image tokens projected once per image

All three must choose the same tokens. They take turns, so that a busy machine slows all alike. What the service uses on a
CPU is `cache`; docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn
from torch.export import Dim
from transformers import BlipForConditionalGeneration

from benchmarks.hardware import provenance
from benchmarks.random_model import random_model
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from export.graphs.layers import SelfAttention, merge_heads, split_heads

Run = Callable[[np.ndarray, int], np.ndarray]


class ProjectOnce(nn.Module):
    """image_embeds [B, T, W] → keys and values of all layers [2 * layers, B, H, T, head_width]."""

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        layers = model.text_decoder.bert.encoder.layer
        self.projections = nn.ModuleList(
            p for at in layers for p in (at.crossattention.self.key, at.crossattention.self.value)
        )
        self.heads = int(model.config.text_config.num_attention_heads)

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.stack([split_heads(projection(image_embeds), self.heads) for projection in self.projections])


class ProjectedStep(nn.Module):
    """token, position, past, cross → logits, present: as `export.graphs.decoder.CaptionStep`, on projected keys."""

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        decoder = model.text_decoder
        self.embeddings, self.head = decoder.bert.embeddings, decoder.cls.predictions
        self.layers = decoder.bert.encoder.layer
        self.attention = nn.ModuleList(SelfAttention(layer.attention) for layer in self.layers)
        self.heads = int(model.config.text_config.num_attention_heads)

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, past: torch.Tensor, cross: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        x = self.embeddings(input_ids=token, position_ids=position[None])
        present = []
        for i, (layer, attention) in enumerate(zip(self.layers, self.attention, strict=True)):
            x, keys, values = attention(x, past=(past[2 * i], past[2 * i + 1]))
            present += [keys, values]
            q = split_heads(layer.crossattention.self.query(x), self.heads)
            scores = torch.matmul(q, cross[2 * i].transpose(-1, -2)) / math.sqrt(q.shape[-1])
            seen = merge_heads(torch.matmul(torch.softmax(scores, dim=-1), cross[2 * i + 1]))
            x = layer.crossattention.output(seen, x)
            x = layer.output(layer.intermediate(x), x)
        return self.head(x.squeeze(1)), torch.stack(present)


def session(path: Path, threads: int) -> ort.InferenceSession:
    """A CPU session as the service opens it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def export(module: nn.Module, inputs: dict[str, torch.Tensor], dims: dict[str, dict[int, Any]], path: Path) -> Path:
    """Write one of this script's own modules as ONNX."""
    if not path.is_file():
        with torch.no_grad():
            program = torch.onnx.export(
                module.eval(), kwargs=inputs, dynamo=True, dynamic_shapes=dims, input_names=list(inputs),
                opset_version=23, verbose=False,
            )  # fmt: skip
        assert program is not None
        program.save(path, external_data=True)
    return path


def ways(model: BlipForConditionalGeneration, bundle: Path, work: Path, threads: int) -> dict[str, Run]:
    """Each way as a function: image embeddings and a number of tokens → token ids [B, tokens]."""
    text = model.config.text_config
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    width = text.hidden_size // heads
    tokens = model.config.vision_config.image_size // model.config.vision_config.patch_size
    embeds = torch.randn(2, tokens**2 + 1, text.encoder_hidden_size)
    batch, past = Dim("batch", min=1), Dim("past", min=1)
    cross = torch.randn(2 * layers, 2, heads, tokens**2 + 1, width)
    step_inputs = {
        "token": torch.ones(2, 1, dtype=torch.long), "position": torch.tensor([3]),
        "past": torch.randn(2 * layers, 2, heads, 3, width), "cross": cross,
    }  # fmt: skip
    project = session(
        export(ProjectOnce(model), {"image_embeds": embeds}, {"image_embeds": {0: batch}}, work / "project.onnx"),
        threads,
    )
    dims = {"token": {0: batch}, "position": {}, "past": {1: batch, 3: past}, "cross": {1: batch}}
    projected = session(export(ProjectedStep(model), step_inputs, dims, work / "projected.onnx"), threads)
    whole, step = (session(bundle / name, threads) for name in ("decoder.onnx", "decoder_step.onnx"))

    def prefix(images: np.ndarray, count: int) -> np.ndarray:
        ids = np.zeros((len(images), whole.get_inputs()[0].shape[1]), dtype=np.int64)
        ids[:, 0] = text.bos_token_id
        for at in range(count):
            feed = {"input_ids": ids, "position": np.array([at]), "image_embeds": images}
            ids[:, at + 1] = whole.run(["best_token"], feed)[0]
        return ids[:, 1 : count + 1]

    def cached(
        images: np.ndarray, count: int, over: ort.InferenceSession, extra: dict[str, np.ndarray], best: str
    ) -> np.ndarray:
        before = np.zeros((2 * layers, len(images), heads, 0, width), dtype=np.float32)
        token, found = np.full((len(images), 1), text.bos_token_id), []
        names = [best, over.get_outputs()[-1].name]
        for at in range(count):
            scores, before = over.run(names, {"token": token, "position": np.array([at]), "past": before, **extra})
            token = (scores if scores.ndim == 1 else scores.argmax(axis=1))[:, None]
            found.append(token[:, 0])
        return np.stack(found, axis=1)

    def cache(images: np.ndarray, count: int) -> np.ndarray:
        return cached(images, count, step, {"image_embeds": images}, "best_token")

    def textbook(images: np.ndarray, count: int) -> np.ndarray:
        keys = project.run(None, {"image_embeds": images})[0]
        return cached(images, count, projected, {"cross": keys}, projected.get_outputs()[0].name)

    return {"prefix": prefix, "cache": cache, "projected": textbook}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.captions", description="Three ways to decode a caption."
    )
    parser.add_argument("--shapes", choices=("base", "tiny"), default="base", help="model (default: base)")
    parser.add_argument("--rounds", type=int, default=5, help="timed captions of each way (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--work", type=Path, help="keep the random model and its graphs here (default: do not)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file (default: do not)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        return run("benchmarks.captions", lambda: measure(args, work))


def measure(args: argparse.Namespace, work: Path) -> int:
    """Time all ways in turn; returns the exit code."""
    made = random_model(args.shapes, work)
    bundle, model = made.bundle("fp32"), made.checkpoint.model
    found = ways(model, bundle.path, work, args.threads)
    rng = np.random.default_rng(0)
    results: dict[str, dict[str, float]] = {}
    for batch in (1, 8):
        images = rng.standard_normal((batch, bundle.manifest.image_tokens, bundle.manifest.width)).astype(np.float32)
        for count in (7, 20):
            times: dict[str, list[float]] = {name: [] for name in found}
            answers = {name: way(images, count) for name, way in found.items()}  # the first run is for warming up
            if any(not np.array_equal(answers["prefix"], other) for other in answers.values()):
                raise ContractError("The ways do not choose the same tokens.")
            for _ in range(args.rounds):
                for name, way in found.items():
                    began = time.perf_counter()
                    way(images, count)
                    times[name].append(time.perf_counter() - began)
            row = {name: round(1000 * statistics.median(values), 1) for name, values in times.items()}
            results[f"{batch} images, {count} tokens"] = row
            print(f"batch {batch}, {count:2d} tokens: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in row.items()))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {**provenance(), "shapes": args.shapes, "threads": args.threads, "milliseconds": results}
        write_text_atomic(args.json, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
