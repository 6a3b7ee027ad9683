"""How fast this machine multiplies matrices at this moment: what the contestants' arithmetic is a share of.

Measured in the same rounds as the contestants, at the encoder's own shapes and at squares, of which the fastest counts.
CPU: one `MatMul` (int8: `MatMulInteger`) in ONNX Runtime with a constant right-hand side, as in our graphs.
GPU: `torch.matmul` in the same type, without TF32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.engine.plain_torch import DTYPES

Shape = tuple[int, int, int]
LEAST_SECONDS = 0.02  # of a shape a round: below it the clock and the first touch of the data count too much
MOST_ROWS = 4616  # 8 pictures: more rows only take longer


@dataclass
class Product:
    """One product [rows, inner] x [inner, columns]; `run(n)` computes it n times and returns when done."""

    shape: Shape
    run: Callable[[int], None]
    repeats: int = 1

    @property
    def flops(self) -> int:
        """Floating-point operations of one product."""
        return 2 * self.shape[0] * self.shape[1] * self.shape[2]

    def calibrate(self) -> None:
        """Warm up, and choose how many products make a measurement."""
        self.run(1)
        began = time.perf_counter()
        self.run(1)
        self.repeats = max(1, round(LEAST_SECONDS / max(time.perf_counter() - began, 1e-6)))

    def rate(self) -> float:
        """Floating-point operations a second, now."""
        began = time.perf_counter()
        self.run(self.repeats)
        return self.repeats * self.flops / (time.perf_counter() - began)


class Yardstick:
    """Products of one element type at one batch size."""

    def __init__(self, device: str, dtype: str, shapes: list[Shape], threads: int) -> None:
        make = _cpu_product if device == "cpu" else _gpu_product
        self.products = [Product(shape, make(shape, dtype, threads)) for shape in shapes]
        for product in self.products:
            product.calibrate()

    def rates(self) -> dict[str, float]:
        """`rows x inner x columns` → floating-point operations a second."""
        return {"x".join(map(str, product.shape)): product.rate() for product in self.products}


def yardstick_types(device: str) -> tuple[str, ...]:
    """Element types that have a yardstick on a device."""
    return ("fp32", "int8") if device == "cpu" else ("fp32", "fp16", "bf16")


def encoder_shapes(batch: int, tokens: int, width: int, device: str, square: int) -> list[Shape]:
    """The products of one encoder block at this batch size, and squares (on a GPU also one large enough to fill it)."""
    rows = min(batch * tokens, MOST_ROWS) if device == "cpu" else batch * tokens
    shapes = [(rows, width, 3 * width), (rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width)]
    squares = [square] if device == "cpu" else [square, 4 * square]
    return [*shapes, *((side, side, side) for side in squares)]


def _cpu_product(shape: Shape, dtype: str, threads: int) -> Callable[[int], None]:
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    left: np.ndarray
    right: np.ndarray
    if dtype == "int8":
        left = rng.integers(0, 128, (rows, inner), dtype=np.uint8)
        right = rng.integers(-63, 64, (inner, columns), dtype=np.int8)
        types, operator = (TensorProto.UINT8, TensorProto.INT32), "MatMulInteger"
    else:
        left = rng.standard_normal((rows, inner), dtype=np.float32)
        right = rng.standard_normal((inner, columns), dtype=np.float32)
        types, operator = (TensorProto.FLOAT, TensorProto.FLOAT), "MatMul"
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["out"])], "product",
        [helper.make_tensor_value_info("left", types[0], [rows, inner])],
        [helper.make_tensor_value_info("out", types[1], [rows, columns])],
        [numpy_helper.from_array(right, "right")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it takes cores from whoever comes next
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # the output is written in place: its allocation is not what is measured
    binding.bind_cpu_input("left", left)
    binding.bind_ortvalue_output("out", ort.OrtValue.ortvalue_from_shape_and_type([rows, columns], _numpy(dtype)))

    def run(times: int) -> None:
        for _ in range(times):
            session.run_with_iobinding(binding)

    return run


def _numpy(dtype: str) -> type:
    return np.int32 if dtype == "int8" else np.float32


def _gpu_product(shape: Shape, dtype: str, _: int) -> Callable[[int], None]:
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device="cuda", dtype=DTYPES[dtype])
    right = torch.randn(inner, columns, device="cuda", dtype=DTYPES[dtype])
    out = torch.empty(rows, columns, device="cuda", dtype=DTYPES[dtype])

    def run(times: int) -> None:
        torch.cuda.synchronize()
        for _ in range(times):
            torch.matmul(left, right, out=out)
        torch.cuda.synchronize()

    return run
