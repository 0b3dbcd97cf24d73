"""One run: its directory, its state as read from ledger and markers, its jobs and what they start from."""
