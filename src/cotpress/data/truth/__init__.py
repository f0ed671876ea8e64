"""Traces of which it is known what matters in them: planted, measured, or made redundant on purpose."""
