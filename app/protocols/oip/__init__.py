"""The Open Inference Protocol, version 2, over REST.

routes.py    the routes
request.py   from a body to photos and the outputs that are wanted; tensors of bytes
stats.py     what requests took, for the statistics extension
examples.py  for the API description
"""
