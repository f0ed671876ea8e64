"""One finite importance per thinking token."""
