"""Other ways to serve the same model, to measure beside: none of them is part of the product.

All answer the original contract: `POST /predict`, multipart field `image`, `{"prediction": ..., "raw_output": ...}`.
"""
