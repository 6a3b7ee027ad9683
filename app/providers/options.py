"""Options of the CUDA and TensorRT providers, as ONNX Runtime 1.31 spells them; every value is a string.

A test looks every name up in the wheel of `onnxruntime-gpu`, and its option parser reads TensorRT's values. CUDA's have
been run on one GPU, where fp32 stayed within 1e-6 of PyTorch; the effect of TensorRT's has not been seen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from app.providers.cache import EngineKey, engine_folder, is_built, timing_folder
from app.providers.gpu import Gpu
from app.providers.tensorrt import TF32

log = logging.getLogger("food_vision")

# What changes the engine itself, and so is part of its key. The level is TensorRT's own default: higher ones search
# longer. The workspace is an upper limit while tactics are tried, not an allocation.
BUILD = {"trt_builder_optimization_level": "3", "trt_max_workspace_size": str(4 << 30)}


@dataclass(frozen=True)
class Profile:
    """Shapes of every input that has symbolic dimensions, for TensorRT: it accepts what lies between the outer two and
    is tuned for the usual one. A shape outside is an error of the run, not a rebuild.

    Raises `ValueError` when the three do not name the same inputs with shapes that grow from 1.
    """

    smallest: Mapping[str, tuple[int, ...]]
    usual: Mapping[str, tuple[int, ...]]
    largest: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not self.smallest or not set(self.smallest) == set(self.usual) == set(self.largest):
            raise ValueError(
                f"A profile needs the same inputs three times, not {sorted(self.smallest)}, {sorted(self.usual)} and "
                f"{sorted(self.largest)}."
            )
        for name, small in self.smallest.items():
            usual, large = self.usual[name], self.largest[name]
            grows = len(small) == len(usual) == len(large) and all(
                1 <= least <= middle <= most for least, middle, most in zip(small, usual, large, strict=True)
            )
            if not grows:
                raise ValueError(f"The profile of {name} does not grow from 1: {small}, {usual}, {large}.")

    def as_dict(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The three by name, for a key."""
        return {"smallest": dict(self.smallest), "usual": dict(self.usual), "largest": dict(self.largest)}


def cuda_options(device: int, *, cuda_graph: bool) -> dict[str, str]:
    """Options of the CUDA provider.

    `use_tf32`: it rounds float32 products to TF32 unless told not to, about 1e-3 in a log-probability, more than the
    self-check allows. `arena_extend_strategy`: the default doubles; each bucket is a session with an arena of its own.
    `cudnn_conv_algo_search`, for towers with convolutions: the default, exhaustive, times kernels whenever a batch size
    is new and keeps the fastest, so two replicas may sum in another order (onnxruntime#19822), and the first batch of
    each size waits; the heuristic asks cuDNN and is the same every time. Never `DEFAULT`, which is cuDNN's fallback list
    since 1.20 (onnxruntime#22705). Source: ONNX Runtime's page on the CUDA provider.
    """
    options = {
        "device_id": str(device),
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if cuda_graph:
        options["enable_cuda_graph"] = "1"
    return options


def tensorrt_options(
    path: Path,
    gpu: Gpu,
    version: str,
    *,
    profile: Profile | None,
    fixed: Mapping[str, int],
    cuda_graph: bool,
    model_digest: str | None,
    precision: str,
    engine_cache: Path | None,
) -> tuple[dict[str, str], Path | None]:
    """Options of the TensorRT provider for the graph at `path`, and the folder of its engine (None without a cache).

    No precision option is set: without one the network is strongly typed, and runs in the types of the ONNX file.
    Raises `ProviderError` when the cache cannot be used, `ValueError` for a cache without the model's digest.
    """
    options = {"device_id": str(gpu.index), "trt_cuda_graph_enable": str(cuda_graph), **BUILD}
    if profile is not None:
        options["trt_profile_min_shapes"] = _shapes(profile.smallest)
        options["trt_profile_opt_shapes"] = _shapes(profile.usual)
        options["trt_profile_max_shapes"] = _shapes(profile.largest)
    if engine_cache is None:
        log.warning("%s: no engine cache, so TensorRT builds its engine at every start", path.name)
        return options | {"trt_engine_cache_enable": "False", "trt_timing_cache_enable": "False"}, None
    if model_digest is None:
        raise ValueError("An engine cache needs the model's digest: engines of other weights would be served.")
    cache = engine_cache.absolute()
    key = EngineKey(
        model=model_digest,
        graph=path.name,
        precision=precision,
        shapes=profile.as_dict() if profile is not None else {},
        fixed=dict(fixed),
        cuda_graph=cuda_graph,
        onnxruntime=ort.__version__,
        tensorrt=version,
        gpu=gpu.name,
        capability=gpu.capability,
        options=BUILD | {TF32: os.environ.get(TF32, "")},
    )
    folder = engine_folder(cache, key)
    options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)}
    if is_built(folder):
        log.info("%s: engine from %s", path.name, folder)
        if not os.access(cache, os.W_OK):  # timings are of use only while an engine is built
            return options | {"trt_timing_cache_enable": "False"}, folder
    else:
        log.info("%s: TensorRT builds an engine into %s; that takes minutes", path.name, folder)
    timings = timing_folder(cache, tensorrt=version, gpu=gpu.name, capability=gpu.capability)
    return options | {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(timings)}, folder


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """`pixels:8x384x384x3,ids:8x4`, the spelling of the provider options."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
