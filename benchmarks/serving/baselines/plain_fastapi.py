"""A plain FastAPI server without batching: what one writes first. Same engine, same photo → pixels, nothing else.

python -m benchmarks.serving.baselines.plain_fastapi --bundle PATH --port 8001
"""

from __future__ import annotations

import threading
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, UploadFile

from benchmarks.serving.baselines import options
from benchmarks.serving.baselines.shared_engine import EngineFunction


def build(engine: EngineFunction) -> FastAPI:
    """The application. Handlers run in Starlette's threads; the engine takes one caller at a time."""
    app, turn = FastAPI(), threading.Lock()

    @app.post("/predict")
    def predict(image: Annotated[UploadFile, File()]) -> dict[str, str]:
        pixels = engine.pixels(image.file.read())
        with turn:
            return engine.label([pixels])[0]

    return app


def main() -> None:
    """Serve until SIGTERM."""
    args = options("plain_fastapi")
    engine = EngineFunction(args.bundle, threads=args.threads, max_batch=1, device=args.device_ms)
    uvicorn.run(build(engine), host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
