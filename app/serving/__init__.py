"""The service without HTTP: its state, the model it serves, and the queue before the engines."""
