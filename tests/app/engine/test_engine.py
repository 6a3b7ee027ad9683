"""The engine: exact captions with and without a cache, batches in buckets, fixed addresses, memory that runs out.

The paths of a GPU (buckets, padding, values on the device, one session per batch size) run here on CPU sessions: a
stand-in opens them whatever the provider. What only a GPU can show is in `benchmarks.gpu.check`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from app.engine import engine as engine_module
from app.engine.batches import buckets
from app.engine.check import run_self_check
from app.engine.engine import Engine, EngineError
from app.engine.graph import Graph
from app.engine.memory import weights_bytes
from app.providers.gpu import GpuMemoryError
from app.providers.sessions import ProviderError, open_session
from contract.bundle import Bundle, ImageTower, read_bundle
from contract.bundle_files import GraphFile
from contract.errors import ContractError
from contract.pixels import Pixels, photo_to_pixels
from tests.conftest import drawn_png


@pytest.fixture
def loaded(bundle: Path) -> Bundle:
    return read_bundle(bundle)


@pytest.fixture(scope="session")
def pictures() -> Pixels:
    return np.stack([photo_to_pixels(drawn_png(i, size=64), 32) for i in range(21)])


class StandIn:
    """Opens CPU sessions for any provider and remembers what was asked; batches above `memory` do not fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.memory = 1000
        self.free: int | None = None  # bytes
        monkeypatch.setattr(engine_module, "open_session", self.open)
        monkeypatch.setattr(engine_module, "DEVICES", dict.fromkeys(("cpu", "cuda", "tensorrt"), "cpu"))
        monkeypatch.setattr(engine_module, "free_bytes", lambda *_, **__: self.free)
        monkeypatch.setattr(engine_module, "pin", lambda array: False)
        run = Graph.run

        def limited(graph: Graph, batch: int, inputs: Any) -> Any:
            if batch > self.memory:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 123")
            return run(graph, batch, inputs)

        monkeypatch.setattr(Graph, "run", limited)

    def open(self, graph: GraphFile, provider: str, threads: int, **options: Any) -> ort.InferenceSession:
        self.asked.append((graph.path.name, {"provider": provider} | options))
        return open_session(graph, "cpu", 1, fixed=options["fixed"])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(monkeypatch)


def owned(array: np.ndarray) -> ort.OrtValue:
    """A value with memory of its own: one made from an array only borrows it."""
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type)
    value.update_inplace(np.ascontiguousarray(array))
    return value


def on_cpu(bundle: Bundle, **options: Any) -> Engine:
    return Engine(bundle, provider="cpu", threads=1, **options)


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8, 21])
def test_a_gpus_batches_give_the_answers_of_a_cpu(
    loaded: Bundle, stand_in: StandIn, pictures: Pixels, cuda_graphs: bool, count: int
) -> None:
    """Padding, buckets, values that stay on the device, fixed addresses and recomputed captions change nothing."""
    wanted = on_cpu(loaded)
    found = Engine(loaded, provider="cuda", threads=1, max_batch=8, cuda_graphs=cuda_graphs)
    found.warm_up()
    for turn in range(2):  # twice: the second time the buffers hold the first batch
        part = np.roll(pictures, turn, axis=0)[:count]
        scores = found.score(part).probabilities
        assert scores.shape == (count, 16)
        assert np.abs(scores - wanted.score(part).probabilities).max() < 1e-5
        assert found.caption(list(part), 12).texts == wanted.caption(list(part), 12).texts
    assert loaded.check is not None
    assert run_self_check(found, loaded.check).largest_difference < 1e-4
    found.close()


@pytest.mark.parametrize(
    ("opset", "provider", "told"), [(23, "tensorrt", True), (18, "tensorrt", False), (23, "cuda", False)]
)
def test_attention_in_float32_is_told_to_whoever_wants_tensorrt(
    loaded: Bundle, stand_in: StandIn, caplog: pytest.LogCaptureFixture, opset: int, provider: str, told: bool
) -> None:
    bundle = replace(loaded, manifest=loaded.manifest.model_copy(update={"opset": opset}))
    Engine(bundle, provider=provider, threads=1, max_batch=1).close()
    assert ("export with --provider tensorrt" in caplog.text) == told


def test_sessions_of_the_two_modes(loaded: Bundle, stand_in: StandIn, tmp_path: Path) -> None:
    Engine(loaded, provider="tensorrt", threads=1, max_batch=6, engine_cache=tmp_path).warm_up()
    asked = dict(stand_in.asked)
    assert list(asked) == ["encoder.onnx", "scorer.onnx", "decoder.onnx"], "one session for a graph; no cache on a GPU"
    profile = asked["encoder.onnx"]["profile"]
    assert (profile.smallest, profile.usual, profile.largest) == tuple(
        {"pixels": (batch, 32, 32, 3)} for batch in (1, 6, 6)
    )
    assert asked["decoder.onnx"]["profile"].largest == {"input_ids": (6, 32), "image_embeds": (6, 17, 64)}
    assert {options["model_digest"] for options in asked.values()} == {loaded.manifest.graphs_digest}
    assert {options["engine_cache"] for options in asked.values()} == {tmp_path}
    stand_in.asked.clear()
    Engine(loaded, provider="tensorrt", threads=1, max_batch=6, cuda_graphs=True).warm_up()
    fixed = [(name, options["fixed"]["batch"]) for name, options in stand_in.asked if options["cuda_graph"]]
    assert sorted(fixed) == sorted((name, b) for name in asked for b in (1, 2, 4, 6)), "one for each batch size"
    assert {options["profile"] for _, options in stand_in.asked} == {None}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_only_a_tower_with_convolutions_asks_for_cudnn(loaded: Bundle, stand_in: StandIn, provider: str) -> None:
    towers = (None, ImageTower(name="blip-vit"), ImageTower(name="efficientnet-lite0", needs_cudnn=True))
    for tower in towers:
        stand_in.asked.clear()
        other = replace(loaded, manifest=loaded.manifest.model_copy(update={"tower": tower}))
        Engine(other, provider=provider, threads=1)
        assert {options["cudnn"] for _, options in stand_in.asked} == {tower is towers[-1]}


def test_buckets_are_powers_of_two_and_the_largest() -> None:
    assert [buckets(n) for n in (1, 2, 6, 32)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8, 16, 32)]


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_no_memory_for_the_largest_bucket(
    loaded: Bundle, stand_in: StandIn, pictures: Pixels, caplog: pytest.LogCaptureFixture, cuda_graphs: bool
) -> None:
    """The smaller ones are served, and it is said."""
    stand_in.memory = 5
    found = Engine(loaded, provider="cuda", threads=1, max_batch=16, cuda_graphs=cuda_graphs)
    found.warm_up()
    assert (found.max_batch, found.buckets) == (4, (1, 2, 4))
    assert "no memory for batches of 8 on cuda: serving at most 4 at a time" in caplog.text
    assert found.score(pictures).probabilities.shape == (21, 16), "more photos are run in several calls"


def test_batch_sizes_whose_weights_would_not_fit_are_never_opened(
    loaded: Bundle, stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """Each graph copies its own weights, and with CUDA graphs each batch size does."""
    files = ("encoder.onnx", "scorer.onnx", "decoder.onnx")
    weights = sum(weights_bytes(loaded.graph(file)) for file in files)
    for cuda_graphs, free, sizes in ((True, 3 * weights, (1, 2, 4)), (False, weights, (1, 2, 4, 8))):
        stand_in.asked.clear()
        stand_in.free = free
        found = Engine(loaded, provider="cuda", threads=1, max_batch=8, cuda_graphs=cuda_graphs)
        found.warm_up()
        assert (found.max_batch, found.buckets) == (sizes[-1], sizes)
        assert len(stand_in.asked) == len(files) * (len(sizes) if cuda_graphs else 1)
        found.close()
    assert caplog.text.count("no memory for the weights of batches of 8: serving at most 4 at a time") == 1
    stand_in.asked.clear()
    stand_in.free = weights - 1
    with pytest.raises(GpuMemoryError, match="but GPU 0 has 1.5 MB free"):
        Engine(loaded, provider="cuda", threads=1)
    assert not stand_in.asked


def test_no_memory_for_a_single_photo_is_an_error(loaded: Bundle, stand_in: StandIn) -> None:
    stand_in.memory = 0
    with pytest.raises(
        ProviderError, match="GPU 0 has no room for one photo .*allocate memory.*; export with a smaller"
    ):
        Engine(loaded, provider="cuda", threads=1).warm_up()


def test_a_node_that_needs_cudnn_is_refused_before_ready(
    loaded: Bundle, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_cudnn(*_: object) -> None:
        raise RuntimeError("running ReduceMax node. Name:'n0' Status Message: cuDNN is unavailable for CUDA")

    monkeypatch.setattr(Graph, "run", without_cudnn)
    with pytest.raises(ProviderError, match="'cuda' was asked for, but ReduceMax nodes .* need cuDNN 9, and .* again"):
        Engine(loaded, provider="cuda", threads=1).warm_up()


def test_other_faults_of_a_large_batch_are_not_taken_for_memory(
    loaded: Bundle, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Graph.run

    def broken(graph: Graph, batch: int, inputs: Any) -> Any:
        if batch > 4:
            raise RuntimeError("invalid argument")
        return run(graph, batch, inputs)

    monkeypatch.setattr(Graph, "run", broken)
    with pytest.raises(RuntimeError, match="invalid argument"):
        Engine(loaded, provider="cuda", threads=1).warm_up()


def test_a_batch_above_the_maximum_is_split(loaded: Bundle, pictures: Pixels) -> None:
    small, large = on_cpu(loaded, max_batch=2), on_cpu(loaded, max_batch=64)
    assert (small.max_batch, large.max_batch) == (2, 64)
    assert np.abs(small.score(pictures).probabilities - large.score(pictures).probabilities).max() < 1e-5
    assert small.caption(pictures, 8).texts == large.caption(pictures, 8).texts


def test_a_large_model_runs_photo_by_photo_on_a_cpu(loaded: Bundle) -> None:
    """577 tokens of width 768 fill a cache; the tiny model's batch stays as it was asked for."""
    base = loaded.manifest.model_copy(update={"image_tokens": 577, "width": 768})
    assert on_cpu(replace(loaded, manifest=base)).max_batch == 1
    assert on_cpu(loaded, max_batch=16).max_batch == 16
    int8 = loaded.manifest.model_copy(update={"precision": "int8"})
    assert on_cpu(replace(loaded, manifest=int8)).max_batch == 1, "one scale for the activations of a call"


@pytest.mark.parametrize(
    ("precision", "provider", "words"),
    [
        ("bf16", "cpu", r"is bf16, which is for cuda or tensorrt, and the provider is 'cpu'\. Export"),
        ("fp16", "cpu", r"is fp16, which is for cuda or tensorrt"),
        ("int8", "cuda", r"is int8, which is for cpu, and the provider is 'cuda'"),
    ],
)
def test_a_bundle_for_another_provider_is_refused(loaded: Bundle, precision: str, provider: str, words: str) -> None:
    other = replace(loaded, manifest=loaded.manifest.model_copy(update={"precision": precision}))
    with pytest.raises(ContractError, match=words):
        Engine(other, provider=provider, threads=1)


def test_captions_end_where_the_places_end(loaded: Bundle, stand_in: StandIn, pictures: Pixels) -> None:
    """decoder.onnx has 32 places; asked for more, it stops there instead of reading beyond them."""
    sep = loaded.manifest.tokens.model_copy(update={"sep": loaded.manifest.tokens.vocabulary - 1})  # never said
    endless = replace(loaded, manifest=loaded.manifest.model_copy(update={"tokens": sep}))
    for provider, most in (("cuda", 32), ("cpu", 40)):
        found = Engine(endless, provider=provider, threads=1)
        captioner = found.captioner(found.encode(pictures[:1]))
        fed = np.array([loaded.manifest.tokens.bos])
        for _ in range(min(40, captioner.length)):
            captioner.step(fed)
        assert min(40, captioner.length) == most
        assert found.caption(pictures[:2], 40).texts[0].startswith("a photo of delicious")


def test_a_value_that_moved_is_not_read_from_its_old_place(loaded: Bundle, stand_in: StandIn, pictures: Pixels) -> None:
    found = Engine(loaded, provider="cuda", threads=1, max_batch=2, cuda_graphs=True)
    found.warm_up()
    embeds = found.encode(pictures[:2])
    copy = owned(embeds.numpy())
    with pytest.raises(RuntimeError, match="image_embeds has moved"):
        found.label_logprobs(copy, 2)


def test_nan_is_an_engine_error(loaded: Bundle, pictures: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_cpu(loaded)
    value = owned(found.encode(pictures[:1]).numpy() * np.float32(np.nan))
    with pytest.raises(EngineError, match=r"scorer\.onnx gives \(1, 16\) values that are not all finite"):
        found.label_logprobs(value, 1)
    monkeypatch.setattr(Engine, "encode", lambda self, pixels: value)
    with pytest.raises(EngineError, match=r"decoder_step\.onnx gives token scores that are not all finite"):
        found.caption(pictures[:1], 4)


def test_progress_is_told(loaded: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with caplog.at_level(logging.INFO):
        on_cpu(loaded, max_batch=4, progress=told.append).warm_up()
    assert told[:2] == ["loading encoder.onnx", "loading scorer.onnx"]
    assert "warming up batches of 4" in told
