"""Tables and plots from what lies on disk."""
