"""Evaluation of a checkpoint: questions, figures of merit, and the report."""
