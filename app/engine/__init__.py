"""A bundle's graphs in ONNX Runtime: pixels in, label probabilities or captions out. Knows no settings."""
