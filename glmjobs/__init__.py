"""Fine-tuning GLM-family models: the stages of a run and the commands people type."""

from hpc.core.interrupted import quietly

__version__ = "0.1.0"

quietly()
