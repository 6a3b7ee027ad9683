"""Pickled weights: plain tensors of the expected file are read, and nothing in it is run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.errors import CheckpointError
from modeling.weights import read_pickled_weights

PLAIN = {"stem.weight": torch.arange(6.0).view(2, 3), "stem.steps": torch.tensor(3)}


def saved(path: Path, held: object, *, old_format: bool = False) -> Path:
    torch.save(held, path, _use_new_zipfile_serialization=not old_format)
    return path


@pytest.mark.parametrize("old_format", [False, True])
def test_tensors_are_read_and_their_file_is_named(tmp_path: Path, old_format: bool) -> None:
    """Both formats are about: what was published before torch 1.6 is no zip archive."""
    path = saved(tmp_path / "tower.pth", OrderedDict(PLAIN), old_format=old_format)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for known in (None, digest, digest.upper()):
        found = read_pickled_weights(path, sha256=known)
        assert found.sha256 == digest
        assert found.tensors.keys() == PLAIN.keys()
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in PLAIN.items())


def test_nested_names_are_joined_and_parameters_are_tensors(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    path = saved(tmp_path / "a.pth", {"model": {"layer": OrderedDict(layer.named_parameters())}})
    found = read_pickled_weights(path).tensors
    assert set(found) == {"model.layer.weight", "model.layer.bias"}
    assert not any(tensor.requires_grad for tensor in found.values())


def test_another_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.pth", PLAIN)
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(CheckpointError, match=f"has the sha256 [0-9a-f]{{64}}, not {'0' * 64}"):
        read_pickled_weights(path, sha256="0" * 64)


class _Command:
    """Unpickled without care it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def _archive_of(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.ones(1), "more": _Command(mark)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "hostile",
    [
        lambda mark: pickle.dumps(_Command(mark)),
        lambda mark: pickle.dumps({"weight": _Command(mark)}, protocol=2),
        _archive_of,
    ],
)
def test_a_command_in_a_pickle_does_not_run(tmp_path: Path, hostile: Callable[[Path], bytes]) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "a.bin"
    path.write_bytes(hostile(mark))
    with pytest.raises(CheckpointError, match="holds Python objects, which are never loaded") as refused:
        read_pickled_weights(path)
    assert "weights_only" not in str(refused.value), "torch's advice is to switch the protection off"
    assert "\n" not in str(refused.value)
    assert not mark.exists()


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    whole = {old: saved(tmp_path / "a.pth", PLAIN, old_format=old).read_bytes() for old in (False, True)}
    path = tmp_path / "b.pth"
    for data in whole.values():
        for length in (0, 1, 4, 60, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(CheckpointError) as refused:
                read_pickled_weights(path)
            assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError, match="There is no file of weights at"):
        read_pickled_weights(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="There is no file of weights at"):
        read_pickled_weights(tmp_path)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ([torch.ones(1)], "all of it is none"),
        (torch.ones(1), "all of it is none"),
        ({}, "holds no weights"),
        ({"weight": torch.ones(1), "epoch": 3}, "epoch is none"),
        ({"model": {"weight": torch.ones(1), "names": ["a"]}}, "model.names is none"),
        ({1: torch.ones(1)}, "1 where the name of a weight belongs"),
        ({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "the weight a.b twice"),
        ({"weight": torch.ones(2).to_sparse()}, "holds Python objects"),
        ({"a\nb\x1b[31m" + "c" * 200: None}, r"tensors: a\?b\?\[31mc{92} is none"),
        ({("z" * 1000,): torch.ones(1)}, r"holds \('z{98} where the name"),
        ({"weight": torch.ones(1).expand(1 << 40)}, "weight is none"),
        ({"weight": torch.ones(1, dtype=torch.complex64)}, "weight is none"),
        ({"a\nb": torch.ones(1)}, r"a\?b is none"),
        ({"a": {"b": {"c": {"d": {"e": torch.ones(1)}}}}}, "a.b.c.d is none"),
    ],
)  # fmt: skip
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, held: object, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_pickled_weights(saved(tmp_path / "a.pth", held))


def test_dicts_without_end_are_refused(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless
    with pytest.raises(CheckpointError, match="again.again.again.again is none"):
        read_pickled_weights(saved(tmp_path / "a.pth", endless))


def test_no_file_takes_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"weight": torch.zeros(1 << 16)})
    with pytest.raises(CheckpointError, match="larger than 1000 bytes"):
        read_pickled_weights(path, most_bytes=1000)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    packed = tmp_path / "b.pth"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    assert packed.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="packed in a way that torch never writes"):
        read_pickled_weights(packed)


def of_pickle(path: Path, program: bytes) -> Path:
    """A file of torch's format whose pickle is `program`."""
    with zipfile.ZipFile(saved(path, PLAIN)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, program if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize(
    "program",
    [
        b"c__builtin__\nbytearray\nJ\x00\x00\x00\x40\x85R.",
        b"ctorch.storage\nUntypedStorage\nJ\x00\x00\x00\x40\x85R.",
        b"ctorch\nTensor\nJ\x00\x00\x00\x40\x85R.",
        b"(" * (1_000_001) + b".",
    ],
    ids=["bytearray", "storage", "tensor", "long"],
)
def test_a_pickle_that_asks_for_much_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes
) -> None:
    """torch's restricted unpickler would run each of them."""
    ran: list[object] = []
    monkeypatch.setattr("torch.load", lambda *args, **kwargs: ran.append(args))
    path = of_pickle(tmp_path / "a.pth", b"\x80\x02" + program)
    for data in (path.read_bytes(), b"\x80\x02" + program):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            read_pickled_weights(path)
    assert not ran


def test_one_tensor_under_endless_names_is_refused(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(3):
        shared = {f"k{number}": shared for number in range(100)}
    path = saved(tmp_path / "a.pth", shared)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="more than 50000 weights"):
        read_pickled_weights(path)
    with pytest.raises(CheckpointError, match="a name beyond 1000 characters"):
        read_pickled_weights(saved(path, {"x" * 600: {"y" * 600: torch.ones(1)}}))
