"""What the model families share: attention, positions, the causal-LM head, loss, packed rows, sentencepiece."""
