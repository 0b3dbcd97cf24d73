"""Memory, disk and time of a training, before it costs any."""
