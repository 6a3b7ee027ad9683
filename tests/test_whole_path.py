"""The whole path: what is served is what PyTorch's constrained decoding says, alone and in batches.

Float rounding, which differs between processors and batch sizes, moves scores by about 1e-5 nats.
Pictures whose two best labels are closer than a hundred times that are counted (one of 120, with
the committed checkpoint) and not compared.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import torch

from app.engine.engine import Engine
from contract.bundle import read_bundle
from contract.pixels import photo_to_pixels
from modeling.captions import label_tree
from modeling.checkpoint import load_checkpoint
from modeling.load import load_blip
from modeling.scoring import constrained_labels, greedy_tokens, label_logprobs
from tests.conftest import drawn_png

PICTURES = 120
NEAR_TIE = 1e-3  # nats


def pixels_of(pictures: list[bytes], size: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(photo_to_pixels(data, size).copy()) for data in pictures])


def constrained(checkpoint: Path, pictures: list[bytes]) -> list[int]:
    """Label ids by `generate` of the plain PyTorch model, held to the label captions."""
    loaded, blip = load_checkpoint(checkpoint), load_blip(str(checkpoint))
    assert loaded.labels is not None
    assert loaded.caption is not None
    prefix = [blip.tokenizer.bos_token_id, *blip.tokenizer(loaded.caption.prefix).input_ids[1:-1]]
    targets = [blip.tokenizer(loaded.caption.target_text(label)).input_ids[1:-1] for label in loaded.labels]
    parts = pixels_of(pictures, blip.image_size).split(50)
    return [i for part in parts for i in constrained_labels(blip, part, prefix, targets)]


def comparable(checkpoint: Path, pictures: list[bytes]) -> list[int]:
    """The pictures that are no near ties: all but a few."""
    loaded, blip = load_checkpoint(checkpoint), load_blip(str(checkpoint))
    assert loaded.labels is not None
    assert loaded.caption is not None
    tree = label_tree(blip.tokenizer, loaded.caption, loaded.labels)
    with torch.no_grad():
        scores = label_logprobs(blip.model, blip.embed(pixels_of(pictures, blip.image_size)), tree)
    best, second = scores.topk(2).values.T
    found = torch.nonzero(best - second > NEAR_TIE)[:, 0].tolist()
    assert len(found) >= 0.97 * len(pictures)
    return found


async def together(url: str, pictures: list[bytes]) -> list[dict[str, object]]:
    """All pictures at once, 40 connections, so that the service forms batches."""
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        answers = await asyncio.gather(*(client.post("/predict", content=data) for data in pictures))
    return [answer.raise_for_status().json() for answer in answers]


def test_served_labels_equal_constrained_decoding(checkpoint: Path, server: str) -> None:
    pictures = [drawn_png(i, size=64) for i in range(PICTURES)]
    wanted, clear = constrained(checkpoint, pictures), comparable(checkpoint, pictures)
    assert len(set(wanted)) > 3, "the model tells foods apart"
    with httpx.Client(base_url=server, timeout=60) as client:
        alone = [client.post("/predict", content=data).raise_for_status().json() for data in pictures]
        batched = []
        for first in range(0, PICTURES, 25):
            files = [("images", data) for data in pictures[first : first + 25]]
            batched += client.post("/predict/batch", files=files).raise_for_status().json()["results"]
    crowded = asyncio.run(together(server, pictures))
    for answers in (alone, batched, crowded):
        assert [answers[i]["class_id"] for i in clear] == [wanted[i] for i in clear]
    for one, other in zip(alone, crowded, strict=True):
        assert abs(float(str(one["confidence"])) - float(str(other["confidence"]))) < 1e-4


def test_engine_captions_equal_generate(checkpoint: Path, bundle: Path) -> None:
    """Token for token: the cache of the tokens before, absorbed cross-attention, alone and in a batch."""
    loaded = load_checkpoint(checkpoint)
    pictures = [drawn_png(i, size=64) for i in range(60)]
    pixels, clear = pixels_of(pictures, 32), comparable(checkpoint, pictures)
    rows = greedy_tokens(loaded.model, pixels, 12)
    wanted = [loaded.tokenizer.decode(rows[i], skip_special_tokens=True).strip() for i in clear]
    assert len(set(wanted)) > 3, "the captions depend on the picture"
    engine = Engine(read_bundle(bundle), provider="cpu", threads=1)
    together = engine.caption(pixels.numpy(), 12).texts
    assert [together[i] for i in clear] == wanted
    assert [engine.caption(pixels[i : i + 1].numpy(), 12).texts[0] for i in clear] == wanted
