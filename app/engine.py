"""The engine: a bundle's graphs as sessions; pixels in, label log-probabilities or caption tokens out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from app.providers import open_session
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, TOKENIZER_FILE, Bundle
from contract.errors import BundleError, ContractError
from contract.pixels import Pixels

Floats = npt.NDArray[np.float32]


class EngineError(Exception):
    """The engine gave no usable numbers."""


@dataclass(frozen=True)
class Scores:
    """Label probabilities float32 [B, L], each row summing to 1, and the seconds of the two stages.

    The softmax is taken at the bundle's temperature; 1 means that none was fitted.
    """

    probabilities: Floats
    encode_seconds: float
    score_seconds: float


@dataclass(frozen=True)
class Captions:
    """Caption texts and the seconds of the two stages."""

    texts: list[str]
    encode_seconds: float
    decode_seconds: float


class Engine:
    """Sessions of one bundle on one provider. Calls block and may come from any one thread at a time.

    Raises `ContractError` at construction: the provider is not the one asked for, or a graph does not load.
    """

    def __init__(self, bundle: Bundle, *, provider: str, threads: int) -> None:
        self.bundle = bundle
        self.provider = provider
        manifest = bundle.manifest
        self.image_size = manifest.image_size
        self._tokens = manifest.tokens
        self._temperature = np.float32(manifest.temperature)
        self._encoder = open_session(bundle.file(ENCODER_FILE), provider, threads)
        self._decoder = open_session(bundle.file(DECODER_FILE), provider, threads)
        self._scorer = open_session(bundle.file(SCORER_FILE), provider, threads) if bundle.labels is not None else None
        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.file(TOKENIZER_FILE)))
        except Exception as error:  # the binding raises plain Exception
            raise BundleError(f"{bundle.file(TOKENIZER_FILE)} cannot be loaded: {error}.") from None

    def warm_up(self, max_batch: int) -> None:
        """Run the smallest and the largest batch once, so that the first request pays for nothing.

        Raises `EngineError` when a graph gives values that are not finite.
        """
        blank = np.zeros((max_batch, self.image_size, self.image_size, 3), dtype=np.uint8)
        for pixels in (blank[:1], blank):
            embeds = self.encode(pixels)
            if not np.isfinite(embeds).all():
                raise EngineError(f"{ENCODER_FILE} gives values that are not all finite")
            if self._scorer is not None:
                self.label_logprobs(embeds)
            self._greedy(embeds, 2)

    def score(self, pixels: Pixels) -> Scores:
        """uint8 pixels [B, S, S, 3] → label probabilities. Raises `EngineError` when they are not finite."""
        started = time.perf_counter()
        embeds = self.encode(pixels)
        encoded = time.perf_counter()
        logprobs = self.label_logprobs(embeds)
        return Scores(_softmax(logprobs / self._temperature), encoded - started, time.perf_counter() - encoded)

    def caption(self, pixels: Pixels, max_tokens: int) -> Captions:
        """uint8 pixels [B, S, S, 3] → greedy captions of at most `max_tokens` tokens each."""
        started = time.perf_counter()
        embeds = self.encode(pixels)
        encoded = time.perf_counter()
        rows = self._greedy(embeds, max_tokens)
        texts = [text.strip() for text in self._tokenizer.decode_batch(rows, skip_special_tokens=True)]
        return Captions(texts, encoded - started, time.perf_counter() - encoded)

    def encode(self, pixels: Pixels) -> Floats:
        """uint8 pixels [B, S, S, 3] → image embeddings float32 [B, T, W]."""
        embeds: Floats = self._encoder.run(None, {"pixels": pixels})[0]
        return embeds

    def label_logprobs(self, embeds: Floats) -> Floats:
        """Image embeddings [B, T, W] → label log-probabilities float32 [B, L]. Raises `EngineError` if not finite."""
        if self._scorer is None or self.bundle.labels is None:
            raise ContractError("The bundle has no labels: it can caption, not classify.")
        logprobs: Floats = self._scorer.run(None, {"image_embeds": embeds})[0]
        if logprobs.shape != (len(embeds), len(self.bundle.labels)) or not np.isfinite(logprobs).all():
            raise EngineError(f"{SCORER_FILE} gives {logprobs.shape} values that are not all finite")
        return logprobs

    def next_logits(self, ids: npt.NDArray[np.int64], embeds: Floats) -> Floats:
        """Token ids int64 [B, N] and embeddings → logits float32 [B, vocabulary]. Raises `EngineError` if not finite."""
        logits: Floats = self._decoder.run(None, {"input_ids": ids, "image_embeds": embeds})[0]
        if not np.isfinite(logits).all():
            raise EngineError(f"{DECODER_FILE} gives values that are not all finite")
        return logits

    def _greedy(self, embeds: Floats, max_tokens: int) -> list[list[int]]:
        """Token ids after [DEC], up to [SEP]; every row advances until all have ended."""
        ids = np.full((len(embeds), 1), self._tokens.bos, dtype=np.int64)
        ended = np.zeros(len(embeds), dtype=bool)
        for _ in range(min(max_tokens, self._tokens.max_length - 1)):
            logits = self.next_logits(ids, embeds)
            chosen = np.where(ended, self._tokens.pad, logits.argmax(axis=1))
            ended |= chosen == self._tokens.sep
            ids = np.concatenate([ids, chosen[:, None]], axis=1)
            if ended.all():
                break
        return [_until(row, self._tokens.sep) for row in ids[:, 1:].tolist()]


def _until(row: list[int], stop: int) -> list[int]:
    return row[: row.index(stop)] if stop in row else row


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return result
