"""The stored self-check: what was written is read, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import BundleError
from contract.self_check import SelfCheck

SIZES: dict[str, Any] = {
    "image_size": 8,
    "image_tokens": 5,
    "width": 4,
    "vocabulary": 9,
    "max_tokens": 7,
    "labels": 2,
    "bank": True,
}


def made() -> SelfCheck:
    return SelfCheck(
        pixels=np.arange(384, dtype=np.uint8).reshape(2, 8, 8, 3),
        places=np.array([0, 2, 4]),
        embeds=np.ones((2, 3, 4), np.float32),
        label_logprobs=np.full((2, 2), -0.7, np.float32),
        tokens=np.array([[[3, 8], [2, 0]], [[3, 8], [8, 3]]]),
        token_logprobs=np.full((2, 2, 2), -0.7, np.float32),
        lengths=np.array([2, 1]),
        similarity=np.array([0.5, -0.1], np.float32),
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    check = made()
    check.save(tmp_path / "a.npz")
    check.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = SelfCheck.parse((tmp_path / "a.npz").read_bytes(), tmp_path / "a.npz", **SIZES)
    assert all(np.array_equal(value, getattr(check, name)) for name, value in vars(found).items())
    captions = SelfCheck.parse((tmp_path / "a.npz").read_bytes(), tmp_path / "a.npz", **(SIZES | {"labels": 0}))
    assert captions.label_logprobs is None
    without = SelfCheck.parse((tmp_path / "a.npz").read_bytes(), tmp_path / "a.npz", **(SIZES | {"bank": False}))
    assert without.similarity is None
    replace(check, similarity=None).save(tmp_path / "older.npz")
    older = SelfCheck.parse((tmp_path / "older.npz").read_bytes(), tmp_path, **(SIZES | {"bank": False}))
    assert older.similarity is None, "as every bundle from before there were banks"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pixels": np.zeros((2, 9, 9, 3), np.uint8)}, "pixels is not uint8"),
        ({"pixels": np.zeros((0, 8, 8, 3), np.uint8)}, "pixels is not uint8"),
        ({"embeds": np.ones((2, 3, 4))}, "embeds is not float32"),
        ({"embeds": np.full((2, 3, 4), np.nan, np.float32)}, "embeds is not finite"),
        ({"label_logprobs": None}, "label_logprobs is not float32"),
        ({"label_logprobs": np.zeros((2, 3), np.float32)}, "label_logprobs is not float32"),
        ({"similarity": None}, "similarity is not float32"),
        ({"similarity": np.zeros(2)}, "similarity is not float32"),
        ({"similarity": np.zeros((2, 1), np.float32)}, "similarity is not float32"),
        ({"similarity": np.full(2, np.nan, np.float32)}, "similarity is not finite"),
        ({"places": np.array([0, 2, 5])}, "places lie outside 0 to 4"),
        ({"tokens": np.full((2, 2, 2), 9)}, "tokens lie outside 0 to 8"),
        ({"tokens": np.zeros((2, 2, 1), np.int64)}, "tokens are not at least two"),
        ({"tokens": np.array(3)}, "tokens are not at least two"),
        ({"pixels": np.array(3)}, "pixels is not uint8"),
        ({"lengths": np.array([2, 0])}, "lengths lie outside 1 to 2"),
        ({"token_logprobs": np.full((2, 2, 3), -0.7, np.float32)}, "token_logprobs is not float32"),
        ({"token_logprobs": np.array([None, 1])}, "not this bundle's self-check: Object arrays"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    check = replace(made(), **change)
    np.savez(tmp_path / "check.npz", **{name: value for name, value in vars(check).items() if value is not None})
    with pytest.raises(BundleError, match=says):
        SelfCheck.parse((tmp_path / "check.npz").read_bytes(), tmp_path / "check.npz", **SIZES)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"\x80\x04N."])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "check.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"check.npz is not this bundle's self-check: no npz file. Export"):
        SelfCheck.parse((tmp_path / "check.npz").read_bytes(), tmp_path / "check.npz", **SIZES)


def test_missing_and_foreign_arrays_are_refused(tmp_path: Path) -> None:
    arrays = vars(made())
    np.savez(tmp_path / "more.npz", extra=np.zeros(1), **arrays)
    np.savez(tmp_path / "less.npz", **{name: arrays[name] for name in list(arrays)[1:]})
    for name in ("more", "less"):
        with pytest.raises(BundleError, match="argument"):
            SelfCheck.parse((tmp_path / f"{name}.npz").read_bytes(), tmp_path / f"{name}.npz", **SIZES)
