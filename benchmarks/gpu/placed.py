"""Where ONNX Runtime's CUDA provider puts every node, asked on the stand-in device: a step of `benchmarks.gpu.proof`.

python -m benchmarks.gpu.placed < jobs.json        in the environment of `benchmarks.gpu.stand_in`

Each graph is opened as the service opens it, strict, and run once on zeros: the calls are made, the numbers mean nothing.
A kernel that wants cuDNN says so only then. Reads a JSON list of jobs and prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from app.providers.sessions import PROVIDERS, ProviderError, open_session
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE
from contract.bundle_files import WEIGHTS, GraphFile
from contract.errors import ContractError

SERVED = (ENCODER_FILE, SCORER_FILE, DECODER_FILE)  # by a GPU
LARGEST = 32  # photos: the bucket that is looked at beside any batch
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
NO_CUDNN = re.compile(r"while running (\S+) node\. Name:'([^']*)'.*cuDNN is unavailable", re.DOTALL)


def graph_file(path: Path) -> GraphFile:
    """A graph with all weights files that lie beside it."""
    weights = {file.name: file.read_bytes() for file in path.parent.glob(f"*{WEIGHTS}")}
    return GraphFile(path, path.read_bytes(), weights)


def place(graph: GraphFile, batch: int | None) -> dict[str, Any]:
    """Open and run one graph, at one batch size or any (None); `nodes` are on CUDA, `fault` says why not all.

    `cudnn` names the first node that cannot run without cuDNN, or is None.
    """
    fixed = {} if batch is None else {"batch": batch}
    try:
        session = open_session(graph, "cuda", 1, fixed=fixed)
    except (ContractError, ProviderError, MemoryError) as error:
        return {"nodes": 0, "fault": str(error), "cudnn": None}
    # that it is all of them, and on CUDA, is what the session was refused for otherwise: here it is looked at once more
    parts = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        parts[part.ep_name] += len(part.get_nodes())
    nodes = parts.pop(PROVIDERS["cuda"], 0)
    if parts or not nodes:
        return {"nodes": nodes, "fault": f"nodes are elsewhere: {dict(parts)}", "cudnn": None}
    return {"nodes": nodes, **_run(session, batch or 1)}


def _run(session: ort.InferenceSession, batch: int) -> dict[str, Any]:
    zeros = {
        one.name: np.zeros([size if isinstance(size, int) else batch for size in one.shape], TYPES[one.type])
        for one in session.get_inputs()
    }
    try:
        session.run(None, zeros)
    except Exception as error:  # the binding raises its own types
        text = str(error)
        if found := NO_CUDNN.search(text):
            return {"fault": None, "cudnn": f"{found[1]} {found[2]!r}"}
        return {"fault": f"it does not run: {' '.join(text.split())[:300]}", "cudnn": None}
    return {"fault": None, "cudnn": None}


def main() -> int:
    """Do the jobs of standard input: `{"path": …, "capability": "9.0", "batches": [null, 32]}` each."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.placed", description="Ask CUDA on the stand-in device about the graphs of stdin."
    ).parse_args()
    ort.set_default_logger_severity(3)
    for job in json.load(sys.stdin):
        graph = graph_file(Path(job["path"]))
        for batch in job.pop("batches"):
            print(json.dumps({**job, "batch": batch, **place(graph, batch)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
