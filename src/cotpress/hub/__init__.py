"""Publication of a trained student on the Hugging Face hub, with a model card that describes and evaluates it."""
