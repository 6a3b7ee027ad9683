"""Other ways to serve the same model, to measure beside: none of them is part of the product.

All answer the original contract: `POST /predict`, multipart field `image`, `{"prediction": ..., "raw_output": ...}`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.known_engine import device


def options(module: str) -> argparse.Namespace:
    """`bundle`, `checkpoint`, `port`, `threads` (of the engine, or of torch), and what only some of them take."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.serving.baselines.{module}")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="what the engine loads")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="what torch loads (the original)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0, help="default: one per core")
    parser.add_argument("--max-batch", type=int, default=16, help="of LitServe (default: 16)")
    parser.add_argument("--wait-ms", type=float, default=0.0, help="LitServe's batch_timeout (default: 0)")
    parser.add_argument("--device-ms", type=device, metavar="CALL,PHOTO", help="time that the engine function takes")
    parser.add_argument(
        "--new-tokens", type=int, default=0, help="of the original: exactly so many, as random weights end no caption"
    )
    return parser.parse_args()
