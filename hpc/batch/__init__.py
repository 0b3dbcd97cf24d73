"""What becomes a batch script: the cluster profile, the environment, the script's text."""
