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

# TensorRT-RTX's compiler has no float32 products for Turing (7.5): its own limit, which the data-centre TensorRT has not.
# Label and word scores are such products (contract/precision.py), so a scorer is parsed for 7.5 and not compiled.
NO_FLOAT32 = "FP32 GEMM is not supported"


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


def compile_graph(path: str, capability: str, batches: list[int]) -> dict[str, Any]:
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
    told = "; ".join(LOGGER.told)[-400:]
    if NO_FLOAT32 in told and capability == "7.5":
        return {**found, "fault": None, "limit": NO_FLOAT32}
    return {**found, "fault": f"TensorRT-RTX makes no engine: {told}", "limit": None}


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def main() -> int:
    """Do the jobs of standard input: `{"path": …, "capability": "8.9", "batches": [1, 8, 32]}` each."""
    for job in json.load(sys.stdin):
        print(json.dumps({**job, **compile_graph(job["path"], job["capability"], job["batches"])}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
