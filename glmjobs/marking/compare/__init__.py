"""Whether two conclusions mean the same."""
