"""Our engine beside transformers in one process: the command, the contestants, rounds, yardstick and report."""
