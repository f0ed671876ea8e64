"""cotpress: press chains of thought, fine-tune on what is left, measure what it cost."""

__version__ = "0.1.0"
