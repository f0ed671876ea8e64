"""Fine-tuning of the reference model and the student."""
