"""The modules that become ONNX graphs: image encoder, text decoder and their layers."""
