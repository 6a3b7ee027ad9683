"""What weights take on a GPU: counted from the graphs, and set against what is free."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.engine.memory import sizes_that_fit, weights_bytes
from app.providers.gpu import GpuMemoryError
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, STEP_FILE, read_bundle
from contract.bundle_files import GraphFile
from export.inspect.stats import read_graph

SIZES = (1, 2, 4, 8, 16, 32)
GB = 10**9


@pytest.mark.parametrize("file", [ENCODER_FILE, SCORER_FILE, DECODER_FILE, STEP_FILE])
def test_the_weights_of_a_graph(file: str, bundle: Path) -> None:
    """As ONNX's own library counts them: those inside, and those in the files that the graphs share."""
    loaded = read_bundle(bundle)
    assert weights_bytes(loaded.graph(file)) == read_graph(loaded, file).weights.bytes


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x3a\xff", b"\x3a\x02\x2a\xff", b"\x80" * 99])
def test_what_is_no_graph_has_none(data: bytes) -> None:
    assert weights_bytes(GraphFile(Path("encoder.onnx"), data)) == 0


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf, of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(("length", "found"), [(b"12", 12), (b"-5", 0), (b"9" * 30, 0), (b"1_0", 0), (b"", 0)])
def test_a_length_that_is_none_counts_for_nothing(length: bytes, found: int) -> None:
    tensor = field(13, field(1, b"length") + field(2, length))
    assert weights_bytes(GraphFile(Path("encoder.onnx"), field(7, field(5, tensor)))) == found


def test_a_number_without_an_end_is_not_read_to_its_end() -> None:
    """It would take hours."""
    endless = b"\x3a\xff\xff\xff\x7f" + b"\xff" * (1 << 24)
    assert weights_bytes(GraphFile(Path("encoder.onnx"), endless)) == 0


@pytest.mark.parametrize(("free", "fit"), [(None, 6), (70 * GB, 6), (6 * GB, 6), (6 * GB - 1, 5), (2 * GB, 2), (GB, 1)])
def test_a_batch_size_needs_weights_of_its_own_with_cuda_graphs(free: int | None, fit: int) -> None:
    assert sizes_that_fit(SIZES, GB, free, cuda_graphs=True, device=0) == SIZES[:fit]
    assert sizes_that_fit(SIZES, GB, free, cuda_graphs=False, device=0) == SIZES


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_no_room_for_the_smallest(cuda_graphs: bool) -> None:
    with pytest.raises(GpuMemoryError) as raised:
        sizes_that_fit(SIZES, 600_000_000, 250_000_000, cuda_graphs=cuda_graphs, device=3)
    assert str(raised.value) == (
        "The model's weights alone take 0.6 GB of a GPU's memory, but GPU 3 has 0.2 GB free; export with a smaller "
        "--precision (fp16), stop what else runs on that GPU, or choose another one (FOOD_VISION_DEVICE)."
    )


def test_the_log_says_what_they_take(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "food_vision"):
        sizes_that_fit(SIZES, 600_000_000, 70 * GB, cuda_graphs=True, device=0)
        sizes_that_fit(SIZES, 600_000_000, 2 * GB, cuda_graphs=True, device=0)
        sizes_that_fit(SIZES, 2_000_000, None, cuda_graphs=False, device=1)
    each = "CUDA graphs: each of 6 batch sizes has sessions of its own, 0.6 GB of weights each, 3.6 GB in all; "
    assert [record.getMessage() for record in caplog.records] == [
        f"{each}70.0 GB are free",
        f"{each}2.0 GB are free",
        "no memory for the weights of batches of 8: serving at most 4 at a time; FOOD_VISION_CUDA_GRAPHS=false needs "
        "0.6 GB for all sizes",
        "weights: 2.0 MB on GPU 1; how much is free is not known",
    ]
