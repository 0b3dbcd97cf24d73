"""The cluster: Slurm, modules, nodes, signals, GPUs. Knows nothing of GLM or of torch models."""
