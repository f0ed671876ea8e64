"""Distillation: the valuable part of each thinking text."""
