"""Agreement of scores with the known importance of tokens, steps and sentences."""
