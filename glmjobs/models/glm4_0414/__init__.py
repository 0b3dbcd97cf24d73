"""GLM-4-9B-0414, GLM-4-32B-0414 and the GLM-Z1 of the same size."""
