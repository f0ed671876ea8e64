"""Causal language models: sources, loading, per-token log-probabilities, character-token alignment."""
