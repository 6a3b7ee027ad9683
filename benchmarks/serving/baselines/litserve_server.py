"""LitServe with the same engine function, batched by LitServe.

python -m benchmarks.serving.baselines.litserve_server --bundle PATH --port 8002 --max-batch 16

Decoding is in `decode_request`, which LitServe runs in the worker that owns the model, as its documentation shows.
"""

from typing import Any

import litserve
from fastapi import Request

from benchmarks.known_engine import Device
from benchmarks.serving.baselines import options
from benchmarks.serving.baselines.shared_engine import EngineFunction
from contract.pixels import Pixels


class FoodAPI(litserve.LitAPI):
    """LitServe's five steps around the engine function."""

    def __init__(self, bundle: Any, threads: int, max_batch: int, wait: float, device: Device | None) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=wait)
        self._bundle, self._threads, self._most, self._known = bundle, threads, max_batch, device

    def setup(self, device: str) -> None:
        """In the worker process."""
        self.engine = EngineFunction(self._bundle, threads=self._threads, max_batch=self._most, device=self._known)

    def decode_request(self, request: Request) -> Pixels:
        """The form that the API process parsed → pixels."""
        form: Any = request  # what arrives is the parsed form
        return self.engine.pixels(form["image"].file.read())

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        """Leave the list as it is: the engine function stacks it."""
        return inputs

    def predict(self, inputs: Any) -> Any:
        """A list where LitServe batches, else one photo's pixels."""
        return self.engine.label(inputs) if isinstance(inputs, list) else self.engine.label([inputs])[0]

    def unbatch(self, output: Any) -> Any:
        """One answer each."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Already JSON types."""
        return output


def main() -> None:
    """Serve until SIGTERM."""
    args = options("litserve_server")
    api = FoodAPI(args.bundle, args.threads, args.max_batch, args.wait_ms / 1000, args.device_ms)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=args.port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
