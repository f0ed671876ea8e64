"""Training traces, benchmark problems, and traces with known importance."""
