"""ONNX Runtime sessions on the provider that was asked for, or an error: never a silent fallback.

With a GPU provider that cannot load, ONNX Runtime logs a line and hands back a working CPU session; so does the retry
of its Python class, at creation and again in `run`. Here both are switched off, what can be known beforehand is checked
beforehand (driver, libraries), and a session that would run anything on the CPU is refused. The options are in
`app/providers/options.py`. CUDA has been run on one GPU (`docs/providers.md`), TensorRT on none.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from app.cores import available
from app.providers import gpu, tensorrt
from app.providers.cache import is_built, seal
from app.providers.gpu import Gpu, ProviderError
from app.providers.options import Profile, cuda_options, tensorrt_options
from contract.bundle_files import GraphFile
from contract.errors import ContractError

__all__ = ["PROVIDERS", "Profile", "ProviderError", "free_bytes", "open_session"]

log = logging.getLogger("food_vision")

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
FILE_FAULTS = {
    "NoSuchFile",
    "NoModel",
    "InvalidProtobuf",
    "InvalidGraph",
}  # exceptions of the binding: the graph's fault
ON_CPU = "fallback to CPU EP has been explicitly disabled"  # in ONNX Runtime's message
NO_MEMORY = (
    "out of memory",
    "failed to allocate memory",
    "bad_alloc",
    "memoryallocation",
    "out_of_memory",
    "alloc_failed",
)
MOST_NAMED = 5  # nodes in a message
NO_FALLBACK, RECORD = "session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info"
# Its fused kernel asks for cuDNN, the two that it replaces do not (docs/gpu-proof.md).
NOT_FUSED = "optimization.disable_specified_optimizers", "BiasSoftmaxFusion"
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class _Plan:
    """What is asked of ONNX Runtime: providers with their options, and the engine folder where there is one."""

    provider: str
    providers: list[tuple[str, dict[str, str]]]
    engines: Path | None = None


def open_session(
    graph: GraphFile,
    provider: str,
    threads: int,
    *,
    profile: Profile | None = None,
    fixed: Mapping[str, int] | None = None,
    cuda_graph: bool = False,
    model_digest: str | None = None,
    precision: str = "fp32",
    engine_cache: Path | None = None,
    device: int = 0,
    cudnn: bool = False,
) -> ort.InferenceSession:
    """A session for one graph on `provider` (`cpu`, `cuda`, `tensorrt`), made of the bytes of `graph` and of no file.

    ONNX Runtime copies what it needs of them: they need not be kept afterwards.
    `threads` is the CPU provider's thread count, 0 for one per core. `fixed` gives symbolic dimensions a size
    (`{"batch": 8}`); on a GPU it also folds away the shape arithmetic, which would run on the CPU. `cuda_graph` needs
    every dimension fixed, and inputs and outputs at fixed addresses (IOBinding): otherwise it answers with old results.
    `cudnn` says that a GPU provider will need cuDNN, which CUDA alone would miss only at the first convolution.

    TensorRT needs `fixed` or a `profile` for every symbolic dimension, else it would build engines during requests.
    Its engines are kept in `engine_cache`, keyed by `model_digest` and all else that they depend on, each with a digest
    that is compared before the engine is loaded; without a cache they are built at every start.

    Strict: on CUDA every node runs there. On TensorRT every node runs on TensorRT or CUDA, at least one on TensorRT,
    and all with a CUDA graph. Never is a node on the CPU. Raises `ProviderError` with reason and remedy when that is
    not so, `ContractError` when the graph cannot be loaded, `ValueError` for arguments that contradict each other.
    """
    fixed = fixed or {}
    _check_arguments(provider, profile, fixed, cuda_graph)
    _check_package(provider)
    if provider == "cpu":
        plan = _Plan(provider, [(PROVIDERS[provider], {})])
    else:
        found = _ready_gpu(provider, precision, device, cudnn=cudnn)
        cuda = (PROVIDERS["cuda"], cuda_options(device, cuda_graph=cuda_graph and provider == "cuda"))
        plan = _Plan(provider, [cuda])
        if provider == "tensorrt":
            options, engines = tensorrt_options(
                graph.path,
                found,
                tensorrt.load(),
                profile=profile,
                fixed=fixed,
                cuda_graph=cuda_graph,
                model_digest=model_digest,
                precision=precision,
                engine_cache=engine_cache,
            )
            plan = _Plan(provider, [(PROVIDERS[provider], options), cuda], engines)
    session = _create(graph, plan, _session_options(graph, threads, fixed, strict=provider != "cpu"))
    _check_session(session, graph.path, provider, profile, cuda_graph)
    if plan.engines is not None:
        seal(plan.engines)
    return session


def free_bytes(provider: str, *, precision: str, device: int, cudnn: bool) -> int | None:
    """Free memory in bytes of the GPU on which a GPU provider's sessions would be; None when CUDA does not say.

    Everything is checked that can be known before a session is opened. Raises `ProviderError` as `open_session` does.
    """
    _check_package(provider)
    return gpu.free_bytes(_ready_gpu(provider, precision, device, cudnn=cudnn).index)


def _ready_gpu(provider: str, precision: str, device: int, *, cudnn: bool) -> Gpu:
    """The GPU, after driver, capability and CUDA's libraries were found to be what they must."""
    found = gpu.gpu(device)
    gpu.check_capability(found, provider, precision, ort.__version__)
    tensorrt.load_cuda(provider, cudnn=cudnn)
    return found


def _check_arguments(provider: str, profile: Profile | None, fixed: Mapping[str, int], cuda_graph: bool) -> None:
    if any(size < 1 for size in fixed.values()):
        raise ValueError(f"Fixed dimensions must be at least 1, not {dict(fixed)}.")
    if cuda_graph and (provider == "cpu" or profile is not None or not fixed):
        raise ValueError("A CUDA graph needs a GPU provider and `fixed` dimensions, and no profile: it has one shape.")


def _check_package(provider: str) -> None:
    if PROVIDERS[provider] not in ort.get_available_providers():
        raise ProviderError(
            f"The provider {provider!r} was asked for, but this ONNX Runtime has only {ort.get_available_providers()}. "
            "Install the GPU extra (onnxruntime-gpu) instead of the CPU one, or set FOOD_VISION_PROVIDER=cpu."
        )


def _session_options(graph: GraphFile, threads: int, fixed: Mapping[str, int], *, strict: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Decoding shares the cores: threads that spin between batches would take them away.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Subnormal numbers cost a CPU a hundred times the usual and are below every tolerance here.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Large tensors come from memory, by address: `graph` must live until the session is made. What is not there would
    # be looked for where the process runs.
    names, buffers = list(graph.weights), list(graph.weights.values())
    options.add_external_initializers_from_files_in_memory(names, buffers, [len(buffer) for buffer in buffers])
    options.add_session_config_entry(EXTERNAL_FOLDER, os.devnull)
    for symbol, size in fixed.items():
        options.add_free_dimension_override_by_name(symbol, size)
    if strict:
        options.add_session_config_entry(NO_FALLBACK, "1")
        options.add_session_config_entry(RECORD, "1")
        options.add_session_config_entry(*NOT_FUSED)
    return options


def _create(graph: GraphFile, plan: _Plan, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        # enable_fallback: by default the class retries with other providers, at creation and after a failed run
        session = ort.InferenceSession(graph.data, options, providers=plan.providers, enable_fallback=0)
    except Exception as error:  # the binding raises its own types, and RuntimeError
        raise _failure(graph, plan, options, error) from None
    if session.get_providers()[0] != PROVIDERS[plan.provider]:
        raise _not_loaded(graph.path, plan.provider, session.get_providers()[0])
    return session


def _not_loaded(path: Path, provider: str, instead: str) -> ProviderError:
    return ProviderError(
        f"The provider {provider!r} was asked for, but {path.name} would run on {instead}: its libraries or the GPU "
        "are missing. Fix that, or set FOOD_VISION_PROVIDER=cpu."
    )


def _failure(graph: GraphFile, plan: _Plan, options: ort.SessionOptions, error: Exception) -> Exception:
    path, text = graph.path, " ".join(str(error).split())
    if plan.provider == "cpu" or type(error).__name__ in FILE_FAULTS:
        return ContractError(f"{path} cannot be loaded: {text[:300]}")
    if ON_CPU in text:
        return _on_cpu(graph, plan, options)
    if any(sign in text.lower() for sign in NO_MEMORY):
        return MemoryError(f"The GPU has no memory for {path.name}: {text[:300]}")
    remedy = "see the lines above in the log"
    if plan.engines is not None and is_built(plan.engines):
        remedy = f"if the engine on disk no longer fits this machine, delete {plan.engines} so that it is built again"
    return ProviderError(f"The provider {plan.provider!r} cannot run {path.name}: {text[:300].rstrip('. ')}; {remedy}.")


def _on_cpu(graph: GraphFile, plan: _Plan, options: ort.SessionOptions) -> ProviderError:
    """Why ONNX Runtime refused: on CUDA a second session, which may use the CPU, tells what would run there."""
    where = "neither TensorRT nor CUDA takes some of its nodes"
    if plan.provider == "cuda":
        options.add_session_config_entry(NO_FALLBACK, "0")
        session = ort.InferenceSession(graph.data, options, providers=plan.providers, enable_fallback=0)
        if session.get_providers()[0] != PROVIDERS["cuda"]:
            return _not_loaded(graph.path, "cuda", session.get_providers()[0])
        where = _told(_nodes(session).get(PROVIDERS["cpu"], []))
    return ProviderError(
        f"The provider {plan.provider!r} was asked for, but of {graph.path.name} {where}; fix its symbolic dimensions (such "
        "nodes compute shapes), export the checkpoint again, or set FOOD_VISION_PROVIDER=cpu."
    )


def _check_session(
    session: ort.InferenceSession, path: Path, provider: str, profile: Profile | None, cuda_graph: bool
) -> None:
    if provider != "tensorrt" and not cuda_graph:
        return
    symbolic = {
        one.name: one.shape for one in session.get_inputs() if any(not isinstance(size, int) for size in one.shape)
    }
    if symbolic and cuda_graph:
        raise ProviderError(
            f"A CUDA graph of {path.name} was asked for, but these inputs have symbolic dimensions: {symbolic}; fix "
            "them all, or set FOOD_VISION_CUDA_GRAPHS=false."
        )
    if symbolic and profile is None:
        raise ProviderError(
            f"TensorRT would build engines for {path.name} during requests, since these inputs have symbolic "
            f"dimensions: {symbolic}; fix them, or give a profile."
        )
    if provider == "tensorrt":
        _check_tensorrt_share(_assigned(session), path, cuda_graph)


def _check_tensorrt_share(assigned: dict[str, Counter[str]], path: Path, cuda_graph: bool) -> None:
    """The first provider of a session may still run none of its nodes."""
    if not assigned:
        log.warning("%s: ONNX Runtime does not say which provider runs which node", path.name)
        return
    mine = assigned.pop(PROVIDERS["tensorrt"], Counter()).total()
    others = sum(assigned.values(), Counter[str]())
    kinds = ", ".join(sorted(others))
    if not mine:
        raise ProviderError(
            f"TensorRT takes no node of {path.name}; all of it would run on CUDA ({kinds}). Ask for the provider "
            "'cuda', or install the TensorRT that the bundle was exported for."
        )
    if others and cuda_graph:
        raise ProviderError(
            f"A CUDA graph of {path.name} needs all of it on TensorRT, but CUDA would run {others.total()} of its "
            f"nodes ({kinds}); set FOOD_VISION_CUDA_GRAPHS=false, or ask for the provider 'cuda'."
        )
    if others:
        log.warning("%s: TensorRT runs %d nodes, CUDA %d (%s)", path.name, mine, others.total(), kinds)


def _told(nodes: list[tuple[str, str]]) -> str:
    named = [f"{kind} {name!r}" for kind, name in sorted(nodes)]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"{len(named)} of its nodes would run on the CPU ({', '.join(named[:MOST_NAMED])}{more})"


def _assigned(session: ort.InferenceSession) -> dict[str, Counter[str]]:
    """How many nodes of each kind every provider runs, before they are fused."""
    return {provider: Counter(kind for kind, _ in nodes) for provider, nodes in _nodes(session).items()}


def _nodes(session: ort.InferenceSession) -> dict[str, list[tuple[str, str]]]:
    """Kind and name of the nodes that every provider runs."""
    found: dict[str, list[tuple[str, str]]] = {}
    part: Any
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend((node.op_type, node.name) for node in part.get_nodes())
    return found
