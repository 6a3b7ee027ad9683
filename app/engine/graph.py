"""One graph of a bundle on one provider, its values kept on the provider's device between graphs.

Inputs are NumPy arrays (copied to the device) or values that another graph left there; outputs stay there until
`numpy()` fetches them (a view on a CPU). With a CUDA graph per batch size every address is fixed: inputs are copied into
buffers that were bound once, and outputs are overwritten by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Value: TypeAlias = ort.OrtValue
Inputs = Mapping[str, npt.NDArray[np.generic] | Value]


@dataclass(frozen=True)
class _Bound:
    """A session's inputs and outputs at fixed addresses."""

    binding: ort.IOBinding
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]


class Graph:
    """Runs one ONNX file. `open_for(batch)` makes its session: for any batch size (None), or for one of them.

    `static`: one session for each batch size, with addresses that never change (CUDA graphs). `device` is `cpu` or
    `cuda`. Sessions are opened by `prepare`, not here.
    """

    def __init__(
        self,
        open_for: Callable[[int | None], ort.InferenceSession],
        *,
        device: str,
        device_id: int = 0,
        static: bool = False,
    ) -> None:
        self._open_for = open_for
        self._device = device
        self._device_id = device_id
        self._static = static
        self._sessions: dict[int | None, ort.InferenceSession] = {}
        self._bound: dict[int, _Bound] = {}

    def prepare(self, batch: int) -> None:
        """Open the session that runs batches of this size, unless it is open. Raises what `open_session` raises."""
        key = batch if self._static else None
        if key not in self._sessions:
            self._sessions[key] = self._open_for(key)

    @property
    def outputs(self) -> set[str]:
        """Names of the outputs, once a session is open."""
        return {output.name for session in self._sessions.values() for output in session.get_outputs()}

    def close(self) -> None:
        """Close every session."""
        self._bound.clear()
        self._sessions.clear()

    def forget(self, batch: int) -> None:
        """Close what was opened for this batch size alone."""
        self._bound.pop(batch, None)
        self._sessions.pop(batch, None)

    def run(self, batch: int, inputs: Inputs) -> dict[str, Value]:
        """All outputs by name, on the device, for inputs whose batch dimension is `batch`."""
        self.prepare(batch)
        if self._static:
            return self._run_static(batch, inputs)
        session = self._sessions[None]
        binding = session.io_binding()
        values = {name: self._value(value) for name, value in inputs.items()}  # a binding keeps no array alive
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._device, self._device_id)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))

    def _value(self, value: npt.NDArray[np.generic] | Value) -> Value:
        if not isinstance(value, np.ndarray):
            return value
        return Value.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, self._device_id)

    def _run_static(self, batch: int, inputs: Inputs) -> dict[str, Value]:
        if batch not in self._bound:
            self._bound[batch] = self._bind(batch, inputs)
        bound = self._bound[batch]
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                bound.inputs[name].update_inplace(np.ascontiguousarray(value))
            elif value.data_ptr() != bound.inputs[name].data_ptr():
                raise RuntimeError(f"The input {name} has moved; a captured graph would read its old place.")
        self._sessions[batch].run_with_iobinding(bound.binding)
        return dict(bound.outputs)

    def _bind(self, batch: int, inputs: Inputs) -> _Bound:
        """Fixed places for one batch size, whose outputs have no other symbolic dimension than the batch."""
        session = self._sessions[batch]
        binding = session.io_binding()
        places = {name: self._place(value) for name, value in inputs.items()}
        for name, value in places.items():
            binding.bind_ortvalue_input(name, value)
        results: dict[str, Value] = {}
        for output in session.get_outputs():
            shape = [batch if isinstance(size, str) else size for size in output.shape]
            results[output.name] = value = Value.ortvalue_from_shape_and_type(
                shape, TYPES[output.type], self._device, self._device_id
            )
            binding.bind_ortvalue_output(output.name, value)
        return _Bound(binding, places, results)

    def _place(self, value: npt.NDArray[np.generic] | Value) -> Value:
        """A buffer of this graph's own for an array: on a CPU a value would otherwise share the caller's memory."""
        if not isinstance(value, np.ndarray):
            return value
        return Value.ortvalue_from_shape_and_type(value.shape, value.dtype.type, self._device, self._device_id)


TYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
