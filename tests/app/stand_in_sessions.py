"""A class that stands for ONNX Runtime's sessions, on a machine that seems to have GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as ort
import pytest

from app.providers import gpu, tensorrt
from app.providers.gpu import Gpu
from app.providers.sessions import PROVIDERS, Profile
from contract.bundle_files import GraphFile

TRT, CUDA, CPU = PROVIDERS["tensorrt"], PROVIDERS["cuda"], PROVIDERS["cpu"]
PATH = Path("somewhere/encoder.onnx")
GRAPH = GraphFile(PATH, b"graph", {"encoder.weights": b"weights"})
PROFILE = Profile({"pixels": (1, 8, 8, 3)}, {"pixels": (8, 8, 8, 3)}, {"pixels": (32, 8, 8, 3)})


@dataclass
class Named:
    name: str = ""
    shape: list[int | str] = field(default_factory=list)
    op_type: str = ""


@dataclass
class Part:
    ep_name: str
    kinds: list[str]

    def get_nodes(self) -> list[Named]:
        return [Named(f"node_{kind}", op_type=kind) for kind in self.kinds]


class Session:
    """Stands for `ort.InferenceSession`: remembers what it was given, and answers as it is told."""

    made: ClassVar[list[Session]] = []
    error: ClassVar[Exception | None] = None
    first: ClassVar[str | None] = None
    shape: ClassVar[list[int | str]] = [8, 8, 8, 3]
    parts: ClassVar[list[Part]] = []

    def __init__(self, data: bytes, options: ort.SessionOptions, providers: list[Any], enable_fallback: int) -> None:
        self.data, self.providers, self.retries = data, providers, enable_fallback
        self.config = {
            key: options.get_session_config_entry(f"session.{key}")
            for key in ("set_denormal_as_zero", "intra_op.allow_spinning", *self.strict(options))
        }
        self.threads = (options.intra_op_num_threads, options.inter_op_num_threads)
        Session.made.append(self)
        if Session.error is not None and (len(Session.made) == 1):
            raise Session.error

    @staticmethod
    def strict(options: ort.SessionOptions) -> list[str]:
        try:
            options.get_session_config_entry("session.disable_cpu_ep_fallback")
        except Exception:
            return []
        return ["disable_cpu_ep_fallback", "record_ep_graph_assignment_info"]

    def get_providers(self) -> list[str]:
        return [Session.first or self.providers[0][0], CPU]

    def get_inputs(self) -> list[Named]:
        return [Named("pixels", Session.shape)]

    def get_provider_graph_assignment_info(self) -> list[Part]:
        return Session.parts


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Make `open_session` see GPUs, and sessions of the class above; the list of those it will make."""
    for name, value in (
        ("made", []), ("error", None), ("first", None), ("shape", [8, 8, 8, 3]), ("parts", [Part(TRT, ["MatMul"])])
    ):  # fmt: skip
        monkeypatch.setattr(Session, name, value)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TRT, CUDA, CPU])
    monkeypatch.setattr(gpu, "gpu", lambda index: Gpu(index, "NVIDIA H200", "9.0", "13.0"))
    monkeypatch.setattr(tensorrt, "load_cuda", lambda provider, cudnn: None)
    monkeypatch.setattr(tensorrt, "load", lambda: "10.16.1")
    monkeypatch.setenv(tensorrt.TF32, "0")
    return Session.made
