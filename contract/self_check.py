"""The bundle's self-check: `check.npz`, a few stored pictures and what PyTorch made of them.

A provider can run a graph without an error and still compute something else: a wrongly fused kernel, a stale engine
cache (TensorRT issue 4837 is one that shipped). So the service puts these pictures through the sessions that will
serve, and compares. Plain arrays without pickle, stored uncompressed.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import BundleError
from contract.familiarity import SIMILARITY

CHECK_FILE = "check.npz"
LOGPROBS = "label_logprobs"
# arrays that not every bundle has
OPTIONAL = (LOGPROBS, SIMILARITY)


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """N pictures and PyTorch's answers in fp32.

    Embeddings are kept at K places only: enough to tell which graph is at fault in a file that stays small. Captions
    are greedy; step t of picture n counts if t < `lengths[n]`. The best C tokens of a step are kept, best first: the
    first alone is often so sure that its log-probability hides an error.
    """

    pixels: npt.NDArray[np.uint8]  # [N, S, S, 3]
    places: npt.NDArray[np.int64]  # [K], which of the image tokens `embeds` holds
    embeds: npt.NDArray[np.float32]  # [N, K, width]
    label_logprobs: npt.NDArray[np.float32] | None  # [N, labels]; None for a bundle without labels
    tokens: npt.NDArray[np.int64]  # [N, T, C]; `tokens[:, :, 0]` is the caption after [DEC]
    token_logprobs: npt.NDArray[np.float32]  # [N, T, C], over the whole vocabulary
    lengths: npt.NDArray[np.int64]  # [N], tokens of each caption, [SEP] included
    similarity: npt.NDArray[np.float32] | None = None  # [N], to the bank; None for a bundle without one

    @property
    def caption(self) -> npt.NDArray[np.int64]:
        """The greedy captions: token ids [N, T]."""
        return self.tokens[:, :, 0]

    @property
    def margins(self) -> npt.NDArray[np.float32]:
        """By how much each token of the captions is ahead of the second best, in log-probability: float32 [N, T]."""
        margins: npt.NDArray[np.float32] = self.token_logprobs[:, :, 0] - self.token_logprobs[:, :, 1]
        return margins

    def save(self, path: Path) -> None:
        """Write the file; the same arrays give the same bytes."""
        arrays: dict[str, Any] = {name: value for name, value in vars(self).items() if value is not None}
        np.savez(path, allow_pickle=False, **arrays)

    @staticmethod
    def parse(
        data: bytes,
        path: Path,
        *,
        image_size: int,
        image_tokens: int,
        width: int,
        vocabulary: int,
        max_tokens: int,
        labels: int,
        bank: bool = False,
    ) -> SelfCheck:
        """The arrays of `data` for a bundle of these sizes; `labels` is 0 for one that only captions.

        `bank` tells whether its photos are compared with some of training. `path` says where the bytes lay.

        Raises `BundleError` for anything but the arrays above with shapes and values that fit.
        """
        try:
            if not zipfile.is_zipfile(io.BytesIO(data)):
                raise ValueError("no npz file")
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            found = SelfCheck(**(dict.fromkeys(OPTIONAL) | arrays))
            if not labels:
                found = replace(found, label_logprobs=None)
            if not bank:
                found = replace(found, similarity=None)
            found._validate(image_size, image_tokens, width, vocabulary, max_tokens, labels, bank)
        except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{path} is not this bundle's self-check: {error}. Export the checkpoint again."
            ) from None
        return found

    def _validate(
        self, image_size: int, image_tokens: int, width: int, vocabulary: int, max_tokens: int, labels: int, bank: bool
    ) -> None:
        count, places = self.pixels.shape[:1], self.places.shape[:1]
        choices = self.tokens.shape[1:]
        if len(choices) != 2 or choices[1] < 2:
            raise ValueError("tokens are not at least two for each step of each picture")
        expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "pixels": (np.uint8, (*count, image_size, image_size, 3)),
            "places": (np.int64, places),
            "embeds": (np.float32, (*count, *places, width)),
            "tokens": (np.int64, (*count, *choices)),
            "token_logprobs": (np.float32, (*count, *choices)),
            "lengths": (np.int64, count),
        }
        if labels:
            expected[LOGPROBS] = (np.float32, (*count, labels))
        if bank:
            expected[SIMILARITY] = (np.float32, count)
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array is None or array.dtype != dtype or array.shape != shape or array.size == 0:
                raise ValueError(f"{name} is not {np.dtype(dtype)} {list(shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        for name, least, most in (
            ("places", 0, image_tokens - 1),
            ("tokens", 0, vocabulary - 1),
            ("lengths", 1, min(choices[0], max_tokens)),
        ):
            array = getattr(self, name)
            if array.min() < least or array.max() > most:
                raise ValueError(f"{name} lie outside {least} to {most}")
