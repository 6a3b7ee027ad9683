"""The faces that other clients speak: Hugging Face's, Vertex AI's and the Open Inference Protocol."""
