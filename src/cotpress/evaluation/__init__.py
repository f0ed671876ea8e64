"""Evaluation: answers to benchmark problems, their verdicts, and the rows of the results table."""
