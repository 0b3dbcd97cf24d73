"""Numbers, units, dates and expressions as values."""
