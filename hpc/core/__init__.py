"""What every other room may use: errors, files, the project's own files, processes and memory limits, timestamps. No
Slurm, no third party but psutil (imported where it is used): the bootstrap runs it on a bare Python."""
