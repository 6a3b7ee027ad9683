"""What TensorRT's ONNX parser and compiler make of graphs, on a machine without a GPU: a step of `benchmarks.gpu.proof`.

python benchmarks/gpu/compiled.py < jobs.json      in the environment of locks/tensorrt-rtx.txt, which has nothing else

TensorRT for RTX is the flavour whose engines are built ahead of time without a GPU. It shares the ONNX parser with the
data-centre TensorRT that the service uses; it is another product with another compiler, and knows no capability 9.0. It
shows that every node is taken and an engine comes out, not what that computes or how fast.

Reads a JSON list of jobs and prints one JSON object a line. Imports nothing of this project.
"""

import json
import sys
import time
from typing import Any

import tensorrt_rtx_bindings as trt

# What TensorRT says where it is itself the reason, after it has taken every node: no faults of a graph. TensorRT-RTX has no
# float32 products for Turing. `Attention` (opset 23) has kernels in 16 bits alone,
# and cannot be told to be decomposed; `python -m export --provider tensorrt` writes plain products (opset 18).
NO_FLOAT32 = "FP32 GEMM is not supported"
NO_ATTENTION = "Attention operation was not supported by a dedicated kernel"


class Errors(trt.ILogger):
    """Keeps what TensorRT complains about."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.told: list[str] = []

    def log(self, severity: Any, text: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.told.append(" ".join(text.split()))


LOGGER = Errors()


def compile_graph(path: str, capability: str, batches: list[int], precision: str) -> dict[str, Any]:
    """Parse and compile one graph for one capability (`8.9`), for batches from the first to the last of `batches`.

    The middle one is what the engine is tuned for. The types of the graph are kept: the network is strongly typed.
    `fault` says why not; `limit` says so where TensorRT-RTX itself is the reason, after every node was parsed.
    """
    LOGGER.told.clear()
    began = time.monotonic()
    builder = trt.Builder(LOGGER)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOGGER)
    if not parser.parse_from_file(path):
        refused = [parser.get_error(i) for i in range(parser.num_errors)]
        told = "; ".join(f"{one.node_operator()} {one.node_name()!r}: {one.desc()}" for one in refused)
        return {"layers": 0, "fault": f"TensorRT-RTX refuses {told[:400]}", "limit": None, "seconds": _since(began)}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), 0)
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [one for one in inputs if -1 in tuple(one.shape)]
    for one in dynamic:
        profile.set_shape(one.name, *(tuple(n if size == -1 else size for size in one.shape) for n in batches))
    if dynamic:
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    found = {"layers": network.num_layers, "seconds": _since(began)}
    if engine is not None:
        return {**found, "fault": None, "limit": None, "megabytes": round(engine.nbytes / 1e6)}
    told = "; ".join(LOGGER.told)
    for limit, holds in ((NO_FLOAT32, capability == "7.5"), (NO_ATTENTION, precision == "fp32")):
        if holds and limit in told:
            return {**found, "fault": None, "limit": limit}
    return {**found, "fault": f"TensorRT-RTX makes no engine: {told[-400:]}", "limit": None}


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def main() -> int:
    """Do the jobs of standard input: `{"path": …, "capability": "8.9", "batches": [1, 8, 32], "precision": "fp16"}` each."""
    for job in json.load(sys.stdin):
        print(
            json.dumps(
                {**job, **compile_graph(job["path"], job["capability"], job["batches"], job.get("precision", ""))}
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
