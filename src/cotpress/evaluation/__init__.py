"""Generates, checks, counts."""
