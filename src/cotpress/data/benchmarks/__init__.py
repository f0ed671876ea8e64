"""Published test sets: fetched from the hub or read from a local copy, every one by the same code."""
