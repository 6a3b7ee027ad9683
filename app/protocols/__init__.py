"""The faces that other clients speak. They stand on `app.web`.

huggingface.py  `huggingface_hub.InferenceClient`
vertex.py       Vertex AI's custom containers
oip/            the Open Inference Protocol, which clients of Triton speak
json_photos.py  photos inside JSON, for all three
"""
