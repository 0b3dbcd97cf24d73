"""Which packages the wheel has; everything else is in pyproject.toml, which has no words for this.

configs/ and sbatch/ stand at the top of the checkout, for people. In the wheel they are data of the package that
reads them (hpc.core.resources finds them in either place): what hpc needs to stand alone is in hpc.
"""

from setuptools import find_packages, setup

DATA = {
    "hpc.configs.clusters": "configs/clusters",
    "hpc.configs.stacks": "configs/stacks",
    "glmjobs.configs": "configs",
    "glmjobs.configs.deepspeed": "configs/deepspeed",
    "glmjobs.marking.wordlists": "glmjobs/marking/wordlists",
    "glmjobs.reporting.assets": "glmjobs/reporting/assets",
    "glmjobs.sbatch": "sbatch",
}

setup(
    packages=[*find_packages(include=["hpc", "hpc.*", "glmjobs", "glmjobs.*"]), *DATA],
    package_dir=DATA,
    package_data={"": ["*.yaml", "*.json", "*.toml", "*.txt", "*.sh", "*.css", "*.js", "py.typed"]},
)
