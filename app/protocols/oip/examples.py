"""Examples for the Open Inference Protocol's part of the API description."""

from __future__ import annotations

from typing import Any

from app.protocols.json_photos import EXAMPLE_PHOTO, PARAMETERS

SERVER = {
    "name": "food-vision",
    "version": "0.1.0",
    "extensions": ["binary_tensor_data", "classification", "model_configuration", "statistics"],
}
METADATA = {
    "name": "food101",
    "versions": ["ad197e481c04"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}],
    "outputs": [
        {"name": "LABEL", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "SCORE", "datatype": "FP32", "shape": [-1, 1]},
    ],
}
CONFIG = {
    "name": "food101",
    "platform": "onnxruntime_onnx",
    "backend": "onnxruntime",
    "max_batch_size": 32,
    "input": [{"name": "IMAGE", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [
        {"name": "LABEL", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "SCORE", "data_type": "TYPE_FP32", "dims": [1]},
    ],
    "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
}
STATS = {
    "model_stats": [
        {
            "name": "food101",
            "version": "ad197e481c04",
            "last_inference": 1790000000000,
            "inference_count": 3,
            "execution_count": 2,
            "inference_stats": {
                "success": {"count": 2, "ns": 24100000},
                "fail": {"count": 0, "ns": 0},
                "queue": {"count": 2, "ns": 200000},
                "compute_input": {"count": 2, "ns": 4800000},
                "compute_infer": {"count": 2, "ns": 17800000},
                "compute_output": {"count": 2, "ns": 80000},
                "cache_hit": {"count": 0, "ns": 0},
                "cache_miss": {"count": 0, "ns": 0},
            },
            "batch_stats": [],
        }
    ]
}
INFER = {
    "model_name": "food101",
    "model_version": "ad197e481c04",
    "outputs": [
        {"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": ["beignets"]},
        {"name": "SCORE", "datatype": "FP32", "shape": [1, 1], "data": [0.94]},
    ],
}
_FLAG = {"type": "boolean"}
INFER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": ["string", "null"]},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"const": "IMAGE"},
                    "datatype": {"const": "BYTES"},
                    "shape": {
                        "description": "[n, 1] for n photos",
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "items": {"type": "integer", "minimum": 1},
                    },
                    "data": {
                        "description": "n photos in base64; left out where their bytes follow the JSON",
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "byte"},
                    },
                    "parameters": {
                        "type": ["object", "null"],
                        "properties": {"binary_data_size": {"type": ["integer", "null"], "minimum": 0}},
                    },
                },
            },
        },
        "outputs": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"enum": ["LABEL", "SCORE", "FAMILIARITY"]},
                    "parameters": {
                        "type": ["object", "null"],
                        "properties": {"classification": {"type": "integer", "minimum": 0}, "binary_data": _FLAG},
                    },
                },
            },
        },
        "parameters": {
            "type": ["object", "null"],
            "properties": {
                "binary_data_output": _FLAG,
                "min_confidence": PARAMETERS["properties"]["min_confidence"],
                "unfamiliar": PARAMETERS["properties"]["unfamiliar"],
                "timeout": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 1 << 53,
                    "description": "microseconds; 0: none",
                },
            },
        },
    },
}
TENSORS = {
    "type": "string",
    "format": "binary",
    "description": "JSON of as many bytes as the header `Inference-Header-Content-Length` says, then the tensors",
}
INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": INFER_SCHEMA,
                "example": {
                    "id": "42",
                    "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [EXAMPLE_PHOTO]}],
                },
            },
            "application/octet-stream": {
                "schema": {
                    **TENSORS,
                    "description": f"{TENSORS['description']}; with a length of 0 the bytes of one photo",
                }
            },
        },
    }
}


def example(body: object) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entry of a 200 answer with this example."""
    return {200: {"description": "Successful Response", "content": {"application/json": {"example": body}}}}


def infer_example() -> dict[int | str, dict[str, Any]]:
    """The same for an inference, which may be answered with binary tensors."""
    found = example(INFER)
    found[200]["content"]["application/octet-stream"] = {"schema": TENSORS}
    return found
