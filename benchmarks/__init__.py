"""All that measures, ours and others'. A file beside this one is a command, or what the commands share:

`latency` (its load generator: load/, checked by `beside_tools`), `overload`, `known_engine`, `captions`, `decode`,
`training`; and folders: serving/ (our service beside others), engine/ (our engine beside transformers), capacity/ (how many
replicas, and what to scale on), gpu/ (what only a GPU shows), accuracy/. They share `hardware` and `random_model`. Records:
results/.
"""
