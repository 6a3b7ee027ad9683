"""The original demo, rebuilt from its description: Flask's development server around transformers' `generate`.

python -m benchmarks.serving.baselines.flask_original --checkpoint PATH --port 8003

One photo at a time through BLIP's own processor, greedy `generate` with the original's `max_new_tokens=50` (a tuned caption
ends by itself after 6), and the caption's last word looked up among the labels. No queue, no batching, no limits. It runs
in threads, as `flask run` does; torch's own threads are left as they are.
"""

from __future__ import annotations

import torch
from flask import Flask, request
from flask.typing import ResponseReturnValue
from PIL import Image
from transformers import AutoProcessor
from transformers.utils.logging import disable_progress_bar

from benchmarks.serving.baselines import options
from modeling.checkpoint import Checkpoint, load_checkpoint

MAX_NEW_TOKENS = 50


def build(checkpoint: Checkpoint, new_tokens: int = 0) -> Flask:
    """The application; `new_tokens` above 0 says how many tokens a caption has.

    Unlike the original it turns photos to RGB, or some files of a folder would be a 500.
    """
    length = {"max_new_tokens": new_tokens or MAX_NEW_TOKENS} | ({"min_new_tokens": new_tokens} if new_tokens else {})
    app = Flask("original")
    processor = AutoProcessor.from_pretrained(checkpoint.path)
    labels = checkpoint.labels

    @app.post("/predict")
    def predict() -> ResponseReturnValue:
        photo = Image.open(request.files["image"].stream).convert("RGB")
        inputs = processor(images=photo, return_tensors="pt")
        with torch.inference_mode():
            tokens = checkpoint.model.generate(**inputs, **length)
        text = processor.decode(tokens[0], skip_special_tokens=True)
        last = text.split()[-1] if text.split() else ""
        known = labels is not None and last.isdecimal() and int(last) < len(labels)
        return {"prediction": labels[int(last)].display if known and labels is not None else text, "raw_output": text}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    args = options("flask_original")
    disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    build(load_checkpoint(args.checkpoint), args.new_tokens).run(host="127.0.0.1", port=args.port, threaded=True)


if __name__ == "__main__":
    main()
