"""The report of a run, in pieces that know neither Slurm nor torch: they turn files into one page.

:mod:`~glmjobs.reporting.load` reads a run directory, :mod:`~glmjobs.run.gpu_hours` counts GPU-hours,
:mod:`~glmjobs.reporting.document` makes one plain document of both (``report.json``), and
:mod:`~glmjobs.reporting.html` and :mod:`~glmjobs.reporting.markdown` only render that document.
"""
