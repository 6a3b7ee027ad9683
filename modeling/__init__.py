"""The model itself, in torch: loading, attention, captions, label tree, scores, and the checkpoint's format."""
