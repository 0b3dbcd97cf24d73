"""The report of a run, in pieces that know neither Slurm nor torch: they turn files into one page.

:mod:`~glmjobs.reporting.gather` reads a run directory, :mod:`~glmjobs.reporting.costs` counts GPU-hours,
:mod:`~glmjobs.reporting.content` makes one plain document of both (``report.json``), and
:mod:`~glmjobs.reporting.html` and :mod:`~glmjobs.reporting.markdown` only render that document.
"""
