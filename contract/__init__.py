"""What training, export and serving must agree on: labels, caption, pixels and the bundle.

Imports numpy, Pillow and pydantic only, so that each of the other rooms can use it without the weight of the rest.
"""
