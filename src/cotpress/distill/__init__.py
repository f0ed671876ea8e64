"""The valuable part of each thinking text."""
