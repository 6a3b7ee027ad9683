"""ONNX Runtime sessions on the provider that was asked for, and the libraries and GPUs below them."""
