"""Chores of this repository: what keeps its files, images and charts in order. Nothing that measures."""
