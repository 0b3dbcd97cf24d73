"""Small models and tokenizers made from a seed, for demos and tests."""
