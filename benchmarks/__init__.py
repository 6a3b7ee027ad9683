"""Measurements beside the product."""
