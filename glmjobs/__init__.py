"""Fine-tuning GLM-family models: the stages of a run and the commands people type."""

__version__ = "0.1.0"
