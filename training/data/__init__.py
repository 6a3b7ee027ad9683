"""Labelled photos: their sources, parts, batches, augmentation and the cache of a frozen tower's outputs."""
