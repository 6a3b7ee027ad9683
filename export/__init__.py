"""Checkpoint → bundle: ONNX graphs of BLIP, each compared with PyTorch before anything is written."""
