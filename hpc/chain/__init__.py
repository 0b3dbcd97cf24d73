"""Jobs that depend on each other: submitting, repairing, the ledger, a chain on this machine."""
