"""What the train stage is made of: arguments from the recipe, committed checkpoints, the Trainer and its callbacks."""
