"""Training traces and benchmark problems."""
