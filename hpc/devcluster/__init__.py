"""A real Slurm on this one machine, with pretended A100 GPUs, for rehearsals and tests.

``python -m hpc.devcluster up --nodes 2 --gpus 8`` starts a private munged, one slurmctld and one slurmd
per pretended node (with ``--accounting`` also slurmdbd on a private MariaDB), as root or as an ordinary
user. It never touches a Slurm that is already there: own configuration, own ports, own sockets, own state
directory.
"""

from hpc.devcluster.cluster import DevCluster
from hpc.devcluster.config import Options

__all__ = ["DevCluster", "Options"]
