"""What a terminal shows: tables, following a run, scores."""
