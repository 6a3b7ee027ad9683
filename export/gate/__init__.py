"""What a bundle must pass before it is written: parity with PyTorch, within limits."""
