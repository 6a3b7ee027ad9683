"""What only a GPU can show, in one call."""
