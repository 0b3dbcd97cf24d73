"""GLM-4, in transformers' own format."""
