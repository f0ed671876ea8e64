"""A trained student on the Hugging Face hub, with a model card that says what it is and how good it is."""
