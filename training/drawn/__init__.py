"""Pictures of sixteen foods drawn by code, so that training and the demo need no download."""
