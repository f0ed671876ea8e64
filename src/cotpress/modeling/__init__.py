"""Loading models, per-token log-probabilities, character-token alignment."""
