"""ONNX Runtime sessions on the provider that was asked for, or an error: never a silent fallback.

With a GPU provider that cannot load, ONNX Runtime logs a line and hands back a working CPU session. Here the first
provider of every session is compared with the one that was asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime as ort

from contract.errors import ContractError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# The CUDA provider rounds float32 matrix products to TF32 unless told not to: about 1e-3 in a log-probability, which is
# more than the self-check allows. Not yet run on a GPU.
OPTIONS = {"cuda": {"use_tf32": "0"}}


class ProviderError(ContractError):
    """The provider that was asked for is not the one that would run."""


def open_session(path: Path, provider: str, threads: int) -> ort.InferenceSession:
    """A session for one graph on `provider` (`cpu`, `cuda`, `tensorrt`).

    `threads` is the CPU provider's thread count, 0 for one per core. Raises `ProviderError` when another provider would
    run the graph, `ContractError` when the graph cannot be loaded.
    """
    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise ProviderError(
            f"The provider {provider!r} was asked for, but this ONNX Runtime has only {ort.get_available_providers()}. "
            "Install the GPU extra (onnxruntime-gpu) instead of the CPU one, or set FOOD_VISION_PROVIDER=cpu."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Decoding shares the cores: threads that spin between batches would take them away.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=[(wanted, OPTIONS.get(provider, {}))])
    except Exception as error:  # the binding raises its own types, and RuntimeError
        raise ContractError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if session.get_providers()[0] != wanted:
        raise ProviderError(
            f"The provider {provider!r} was asked for, but {path.name} would run on {session.get_providers()[0]}: its "
            "libraries or the GPU are missing. Fix that, or set FOOD_VISION_PROVIDER=cpu."
        )
    return session
