"""Compression of thinking tokens by score, and its export; loads no model."""
