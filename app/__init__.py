"""The service: photos in over HTTP, labels out. Imports neither torch nor transformers."""

import os

# ONNX Runtime 1.29 and later report model file names and hashes unless told not to; it reads this when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
