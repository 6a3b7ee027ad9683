"""The model itself, in torch: loading, attention, captions, label tree, scores, checkpoints."""
