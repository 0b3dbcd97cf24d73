"""Is this node fit: checks, the exchange between nodes, GPUs, libraries, the all-reduce."""
