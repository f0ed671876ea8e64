"""Text generation: prompts in, completions out."""
