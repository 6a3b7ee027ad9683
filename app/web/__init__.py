"""Our REST face: HTTP, from a connection to an answer.

connection.py  one connection: uvicorn's protocol, with an end to all that it would wait for
transport.py   what is written in one turn of the event loop leaves as one piece
head.py        what must hold for the head of a request
places.py      too many connections: who gives way; many requests: who begins
prefix.py      behind a proxy that puts a prefix before every path
keys.py        API keys, and which paths need none
body.py        bodies: how large, how slow, how many; decompress.py: gzip and deflate
routes.py      the routes
upload.py      from a request to the bytes of its photos
leaving.py     the client or the service leaves before the answer
errors.py      faults as answers
paths.py       which paths there are: templates for metrics, methods for 405
openapi.py     the API description; page.py: the pages for people, of the files in static/
"""
