"""Which tokens stay: pure selection, no model."""
