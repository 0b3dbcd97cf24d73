"""The recipe: its schema, and how it and the cluster profile are found, read and overridden."""
