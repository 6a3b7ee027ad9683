"""Labelling in bulk: `python -m tests.app.bulk` is the long form, with thousands of photos and a kill; see `__main__.py`."""
