"""Traces that the target model wrote itself."""
