"""One example answer for each operation of the API description, built from the answers' own classes.

The figures are those of a small model trained on drawn pictures; a test holds that no operation lacks an example.
"""

from __future__ import annotations

from typing import Any

from app.faults import ErrorBody
from app.serving.schemas import Abstention, BatchAnswer, Candidate, Caption, Health, Labels, Links, Model, Prediction

MODEL = Model(name="food101", version="ad197e481c04")
PREDICTION = Prediction(
    prediction="Beignets",
    raw_output="a photo of delicious 6",
    class_id=6,
    label="beignets",
    confidence=0.941,
    abstained=None,
    top=[
        Candidate(class_id=6, label="beignets", prediction="Beignets", confidence=0.941),
        Candidate(class_id=31, label="donuts", prediction="Donuts", confidence=0.032),
    ],
    model=MODEL,
    timings_ms={"decode": 2.4, "queue": 0.1, "encode": 8.0, "score": 0.9, "total": 11.6},
)
UNSURE = PREDICTION.model_copy(
    update={
        "prediction": None,
        "class_id": None,
        "label": None,
        "confidence": 0.412,
        "abstained": Abstention(
            reason="low_confidence",
            message="The best label has a probability of 0.412, below 0.6.",
            min_confidence=0.6,
        ),
        "top": [
            Candidate(class_id=6, label="beignets", prediction="Beignets", confidence=0.412),
            Candidate(class_id=31, label="donuts", prediction="Donuts", confidence=0.388),
        ],
    }
)
CAPTION = Caption(
    caption="a photo of delicious 6",
    prediction="Beignets",
    model=MODEL,
    timings_ms={"decode": 2.4, "queue": 0.1, "encode": 8.0, "generate": 14.2, "total": 24.9},
)
BROKEN = ErrorBody(error="The image is damaged or truncated.", error_type="bad_image")
INFO = {
    "model": MODEL.model_dump(),
    "state": "ready",
    "provider": "cpu",
    "engines": 1,
    "max_batch": 16,
    "labels": 101,
    "image_size": 384,
    "precision": "fp32",
    "caption": "a photo of delicious {target}",
    "abstain_below": 0.0,
    "limits": {"max_batch": 16, "max_queue": 256, "max_body_bytes": 33554432, "max_pixels": 67108864},
    "queued": {"predict": 0, "caption": 0},
}

# operation id → the body of its 200 answer
ANSWERS: dict[str, Any] = {
    "root": Links().model_dump(),
    "post_root": [{"label": "beignets", "score": 0.941, "generated_text": "a photo of delicious 6"}],
    "predict": PREDICTION.model_dump(),
    "predict_batch": BatchAnswer(results=[PREDICTION, UNSURE, BROKEN]).model_dump(),
    "caption": CAPTION.model_dump(),
    "labels": Labels(labels=[{"id": 6, "name": "beignets", "display": "Beignets"}]).model_dump(),
    "info": INFO,
    "health": Health(status="ok").model_dump(),
    "health_live": Health(status="ok").model_dump(),
    "health_ready": Health(status="ok").model_dump(),
}

# operation id → what stands between `curl` and the address; a test runs every command as it is shown
CURL: dict[str, str] = {
    "predict": "-F image=@photo.jpg",
    "predict_batch": "-F images=@one.jpg -F images=@two.jpg",
    "caption": "-F image=@photo.jpg",
    "root": "-H 'Accept: application/json'",
    "post_root": "--data-binary @photo.jpg",
    "v2_models_infer": "-d @request.json",
    "v2_models_versions_infer": "-d @request.json",
}
