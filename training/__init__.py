"""Partial fine-tuning of BLIP on labelled photos, and its evaluation."""
