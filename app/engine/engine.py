"""The engine: a bundle's graphs on one provider; pixels in, label probabilities or captions out.

Between the graphs everything stays on the provider's device: only pixels go there, only log-probabilities and token ids
come back. On a GPU a batch is padded to the next of a few sizes (`buckets`), so that kernels, engines and CUDA graphs
exist for every shape before the service is ready; on a CPU it runs as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

from app.engine.batches import buckets, cpu_batch, is_memory
from app.engine.captioner import Captioner, PrefixCaptioner, StepCaptioner, greedy
from app.engine.captures import GUARD
from app.engine.graph import Graph, Value
from app.engine.memory import no_room, sizes_that_fit, weights_bytes
from app.providers.gpu import pin, unpin
from app.providers.sessions import Profile, ProviderError, free_bytes, open_session
from app.providers.tensorrt import cudnn_refusal
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, STEP_FILE, TOKENIZER_FILE, Bundle
from contract.errors import BundleError, ContractError
from contract.familiarity import FAMILIARITY, SIMILARITY
from contract.pixels import Pixels
from contract.self_check import LOGPROBS

log = logging.getLogger("food_vision")
Floats = npt.NDArray[np.float32]

ATTENTION_OPSET = 23  # the first with an operator Attention (docs/gpu-proof.md)
DEVICES = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}  # where a provider keeps its values


class EngineError(Exception):
    """The engine gave no usable numbers."""


@dataclass(frozen=True)
class Scores:
    """Label probabilities float32 [B, L], each row summing to 1, and the seconds of the two stages.

    The softmax is taken at the bundle's temperature; 1 means that none was fitted. familiarity float32 [B], 0..1, is
    that of `contract.familiarity`; None: the bundle has no bank of training photos.
    """

    probabilities: Floats
    encode_seconds: float
    score_seconds: float
    familiarity: Floats | None = None


@dataclass(frozen=True)
class LabelScores:
    """What the scorer gives for B photos; the last two are None for a bundle without a bank."""

    logprobs: Floats  # [B, L]
    similarity: Floats | None  # [B], mean cosine to the nearest photos of the bank
    familiarity: Floats | None  # [B], share of the bank's photos that look less like the rest of it


@dataclass(frozen=True)
class Captions:
    """Caption texts and the seconds of the two stages."""

    texts: list[str]
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class _Sessions:
    """Opens an engine's sessions. Knows nothing of the engine: what holds it then keeps no engine alive."""

    bundle: Bundle
    provider: str
    threads: int
    max_batch: int
    cuda_graphs: bool
    engine_cache: Path | None
    device: int

    def graph(self, file: str) -> Graph:
        """One graph of the bundle, whose sessions are not open yet."""
        opens = partial(self.open, file)
        return Graph(opens, device=DEVICES[self.provider], device_id=self.device, static=self.cuda_graphs)

    def open(self, file: str, batch: int | None) -> ort.InferenceSession:
        """A session for batches of one size, or of any up to `max_batch`."""
        return open_session(
            self.bundle.graph(file),
            self.provider,
            self.threads,
            profile=self._profile(file) if self.provider == "tensorrt" and batch is None else None,
            fixed={} if batch is None else {"batch": batch},
            cuda_graph=self.cuda_graphs,
            model_digest=self.bundle.manifest.graphs_digest,
            precision=self.bundle.manifest.precision,
            engine_cache=self.engine_cache,
            device=self.device,
            cudnn=self.bundle.manifest.needs_cudnn,
        )

    def _profile(self, file: str) -> Profile:
        """TensorRT's smallest, usual and largest shapes of every input of a graph."""
        manifest = self.bundle.manifest

        def shapes(batch: int) -> dict[str, tuple[int, ...]]:
            if file == ENCODER_FILE:
                return {"pixels": (batch, manifest.image_size, manifest.image_size, 3)}
            embeds = {"image_embeds": (batch, manifest.image_tokens, manifest.width)}
            return embeds | ({"input_ids": (batch, manifest.tokens.static_length)} if file == DECODER_FILE else {})

        return Profile(shapes(1), shapes(min(8, self.max_batch)), shapes(self.max_batch))


class Engine:
    """Sessions of one bundle on one provider. Calls block and may come from any one thread at a time.

    `max_batch` is the most photos of one call to the graphs: at most what was asked for, less where the provider is
    faster or has memory for less (after `warm_up`). More photos are run in several calls. `progress` is told what is
    being loaded or built. Raises `ContractError` at construction: the bundle is not for this provider, the provider is
    not the one asked for, or a graph does not load.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str,
        threads: int,
        max_batch: int = 16,
        cuda_graphs: bool = False,
        engine_cache: Path | None = None,
        device: int = 0,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.bundle = bundle
        self.provider = provider
        manifest = bundle.manifest
        if provider not in manifest.providers:
            raise ContractError(
                f"The bundle {bundle.path} is {manifest.precision}, which is for {' or '.join(manifest.providers)}, and "
                f"the provider is {provider!r}. Export the checkpoint for it (python -m export --precision fp32 runs "
                "everywhere), or set FOOD_VISION_PROVIDER."
            )
        if provider == "tensorrt" and manifest.precision == "fp32" and manifest.opset >= ATTENTION_OPSET:
            log.warning(
                "%s is fp32 at opset %d, whose Attention TensorRT has kernels for in 16 bits alone; if it makes no "
                "engine, export with --provider tensorrt",
                bundle.path, manifest.opset,
            )  # fmt: skip
        self.image_size = manifest.image_size
        self._tokens = manifest.tokens
        self._temperature = np.float32(manifest.temperature)
        self._progress = progress
        self._cuda_graphs = cuda_graphs and provider != "cpu"
        self.buckets = buckets(max_batch) if provider != "cpu" else ()
        self.max_batch = max_batch if self.buckets else min(max_batch, cpu_batch(bundle.manifest))
        self.device = device
        self.worths = [1.0] * (max_batch + 1)  # of calls, by their photos; `ready_engine` times them
        self._staging: dict[int, Pixels] = {}
        self.decoder_file = DECODER_FILE if self.buckets else STEP_FILE
        files = (ENCODER_FILE, *([SCORER_FILE] if bundle.labels is not None else []), self.decoder_file)
        if self.buckets:
            with self.guarded():
                free = free_bytes(provider, precision=manifest.precision, device=device, cudnn=manifest.needs_cudnn)
            weights = sum(weights_bytes(bundle.graph(file)) for file in files)
            self.buckets = sizes_that_fit(self.buckets, weights, free, cuda_graphs=cuda_graphs, device=device)
            self.max_batch = self.buckets[-1]
        sessions = _Sessions(bundle, provider, threads, self.max_batch, self._cuda_graphs, engine_cache, device)
        self._graphs = {file: sessions.graph(file) for file in files}
        try:
            with self.guarded():
                self._prepare(self.buckets[0] if self.buckets else 1)
            self._check_outputs()
            self._tokenizer = _tokenizer(bundle)
        except BaseException:  # it holds this engine
            self.close()
            raise

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _prepare(self, batch: int) -> None:
        for file, graph in self._graphs.items():
            self._progress(f"loading {file}" + (f" for batches of {batch}" if self._cuda_graphs else ""))
            graph.prepare(batch)

    def _check_outputs(self) -> None:
        """Raise `BundleError` unless the scorer has the outputs that the manifest tells of."""
        if SCORER_FILE not in self._graphs:
            return
        path, bank = self.bundle.path / SCORER_FILE, self.bundle.manifest.familiarity is not None
        found = self._graphs[SCORER_FILE].outputs & {SIMILARITY, FAMILIARITY}
        if bank and len(found) < 2:
            raise BundleError(
                f"{path} does not compute familiarity, but the bundle's manifest says that it does. "
                "Export the checkpoint again."
            )
        if found and not bank:
            raise BundleError(
                f"{path} computes familiarity, but the bundle's manifest does not say so. Export the checkpoint again."
            )

    def close(self) -> None:
        """Let go of the sessions, their values and page-locked memory, in the thread of the calls; the engine is of no
        use any more."""
        with self.guarded():
            while self._staging:  # unlocked before it is freed
                unpin(self._staging.popitem()[1])
            for graph in self._graphs.values():
                graph.close()

    def guarded(self) -> AbstractContextManager[None]:
        """Around all that asks CUDA for something, where CUDA graphs are captured; the public calls that end with NumPy
        arrays or texts are in it already."""
        return GUARD.call() if self._cuda_graphs else nullcontext()

    # -- warm-up ------------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Run every batch size that requests can meet, so that the first request pays for nothing.

        A bucket that does not fit into the memory is dropped with all larger ones and `max_batch` falls; the smallest
        must fit. Raises `EngineError` when a graph gives values that are not finite, `ProviderError` when one needs cuDNN
        and there is none, `GpuMemoryError` when a GPU has no room for one photo.
        """
        for batch in self.buckets or dict.fromkeys((1, self.max_batch)):
            self._progress(f"warming up batches of {batch}")
            try:
                with self.guarded():
                    self._prepare(batch)
                with GUARD.capture() if self._cuda_graphs else nullcontext():  # with the first run of a session
                    self._warm(batch)
            except (EngineError, ProviderError):
                raise
            except Exception as error:  # allocation failures come as several types of the binding
                if (refusal := cudnn_refusal(self.provider, error)) is not None:
                    raise refusal from None
                if not is_memory(error):
                    raise
                if batch == 1:
                    raise (no_room(self.device, error) if self.buckets else error) from None
                with self.guarded():
                    self._drop(batch)
                log.warning(
                    "no memory for batches of %d on %s: serving at most %d at a time",
                    batch,
                    self.provider,
                    self.max_batch,
                )
                break

    def _warm(self, batch: int) -> None:
        blank = np.zeros((batch, self.image_size, self.image_size, 3), dtype=np.uint8)
        for pixels, embeds in self._encoded(blank):
            if not np.isfinite(embeds.numpy()).all():
                raise EngineError(f"{ENCODER_FILE} gives values that are not all finite")
            if self.bundle.labels is not None:
                self.label_scores(embeds, len(pixels))
            self._greedy(embeds, len(pixels), 2)

    def _drop(self, batch: int) -> None:
        kept = [size for size in self.buckets or (1,) if size < batch]
        self.max_batch = kept[-1]
        self.buckets = tuple(kept) if self.buckets else ()
        for graph in self._graphs.values():
            graph.forget(batch)
        unpin(self._staging.pop(batch, np.zeros(0, np.uint8)))

    # -- calls --------------------------------------------------------------------------------------------------------

    def score(self, pixels: Sequence[Pixels] | Pixels) -> Scores:
        """uint8 pixels [B, S, S, 3] → label probabilities and familiarity.

        Raises `EngineError` when they are not finite, or a familiarity lies outside of 0..1.
        """
        scoring = 0.0
        rows: list[LabelScores] = []
        with self.guarded():
            began = last = time.perf_counter()
            for part, embeds in self._encoded(pixels):
                encoded = time.perf_counter()
                rows.append(self.label_scores(embeds, len(part)))
                last = time.perf_counter()
                scoring += last - encoded
        logprobs: Floats = np.concatenate([row.logprobs for row in rows])
        logprobs /= self._temperature
        familiarity = [row.familiarity for row in rows if row.familiarity is not None]
        return Scores(
            _softmax(logprobs), last - began - scoring, scoring,
            np.concatenate(familiarity) if familiarity else None,
        )  # fmt: skip

    def caption(self, pixels: Sequence[Pixels] | Pixels, max_tokens: int) -> Captions:
        """uint8 pixels [B, S, S, 3] → greedy captions of at most `max_tokens` tokens each."""
        decoding = 0.0
        rows: list[list[int]] = []
        with self.guarded():
            began = last = time.perf_counter()
            for part, embeds in self._encoded(pixels):
                encoded = time.perf_counter()
                rows += self._greedy(embeds, len(part), max_tokens)
                last = time.perf_counter()
                decoding += last - encoded
        texts = [text.strip() for text in self._tokenizer.decode_batch(rows, skip_special_tokens=True)]
        return Captions(texts, last - began - decoding, decoding)

    def encode(self, pixels: Pixels) -> Value:
        """uint8 pixels [B, S, S, 3], B up to `max_batch` → image embeddings on the device; a bucket's rows on a GPU."""
        batch = self._padded(len(pixels))
        return self._graphs[ENCODER_FILE].run(batch, {"pixels": self._stage(pixels, batch)})["image_embeds"]

    def label_logprobs(self, embeds: Value, count: int) -> Floats:
        """Image embeddings → label log-probabilities float32 [count, L]. Raises as `label_scores` does."""
        return self.label_scores(embeds, count).logprobs

    def label_scores(self, embeds: Value, count: int) -> LabelScores:
        """Image embeddings → all that the scorer gives for the first `count` rows, in one run.

        Raises `EngineError` if values are not finite, or a familiarity lies outside of 0..1.
        """
        if self.bundle.labels is None:
            raise ContractError("The bundle has no labels: it can caption, not classify.")
        found = self._graphs[SCORER_FILE].run(embeds.shape()[0], {"image_embeds": embeds})
        # on a CPU these are views of what the next run may overwrite
        rows = {name: value.numpy()[:count].copy() for name, value in found.items()}
        scores = LabelScores(rows[LOGPROBS], rows.get(SIMILARITY), rows.get(FAMILIARITY))
        shape = (count, len(self.bundle.labels))
        if scores.logprobs.shape != shape or not np.isfinite(scores.logprobs).all():
            raise EngineError(f"{SCORER_FILE} gives {scores.logprobs.shape} values that are not all finite")
        for name in rows.keys() & {SIMILARITY, FAMILIARITY}:
            if rows[name].shape != (count,) or not np.isfinite(rows[name]).all():
                raise EngineError(f"{SCORER_FILE} gives {rows[name].shape} values of {name} that are not all finite")
        share = scores.familiarity
        if share is not None and not ((share >= 0) & (share <= 1)).all():
            raise EngineError(f"{SCORER_FILE} gives a familiarity of {share.min()} to {share.max()}, not in 0..1")
        return scores

    def captioner(self, embeds: Value) -> Captioner:
        """A captioner that has begun with these embeddings; one at a time."""
        kind = PrefixCaptioner if self.decoder_file == DECODER_FILE else StepCaptioner
        captioner: Captioner = kind(self._graphs[self.decoder_file], self.bundle.manifest)
        captioner.start(embeds, embeds.shape()[0])
        return captioner

    def _encoded(self, pixels: Sequence[Pixels] | Pixels) -> Iterator[tuple[Sequence[Pixels] | Pixels, Value]]:
        """Parts of at most `max_batch` photos, each with its embeddings on the device."""
        for first in range(0, len(pixels), self.max_batch):
            part = pixels[first : first + self.max_batch]
            yield part, self.encode(part if isinstance(part, np.ndarray) else np.stack(part))

    def _padded(self, count: int) -> int:
        return next((size for size in self.buckets if size >= count), count)

    def _stage(self, pixels: Pixels, batch: int) -> Pixels:
        """The photos in page-locked memory, from where a GPU copies fastest, padded with whatever was there before."""
        if not self.buckets:
            return pixels
        if batch not in self._staging:
            self._staging[batch] = np.zeros((batch, *pixels.shape[1:]), dtype=np.uint8)
            pin(self._staging[batch])
        staging = self._staging[batch]
        staging[: len(pixels)] = pixels
        return staging

    def _greedy(self, embeds: Value, count: int, max_tokens: int) -> list[list[int]]:
        try:
            return greedy(self.captioner(embeds), self._tokens, embeds.shape()[0], count, max_tokens)
        except FloatingPointError as error:
            raise EngineError(f"{self.decoder_file} gives {error}") from None


def _tokenizer(bundle: Bundle) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(bundle.contents[TOKENIZER_FILE])
    except Exception as error:  # the binding raises plain Exception
        raise BundleError(f"{bundle.path / TOKENIZER_FILE} cannot be loaded: {error}.") from None


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return result
