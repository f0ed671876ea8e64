"""How well scores agree with what is known to matter."""
