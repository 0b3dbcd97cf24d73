"""Test sets, predictions, statistics and summaries. Importing it imports no torch."""
