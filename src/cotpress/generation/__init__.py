"""Prompts in, texts out."""
