"""Greedy decoding in batches."""
