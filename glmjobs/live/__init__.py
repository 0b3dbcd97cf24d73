"""Runs as pages that keep themselves up to date in a browser.

:mod:`~glmjobs.live.views` reads run directories, no more often than it has to; :mod:`~glmjobs.live.pages` lays out what
it finds, in the report's style; :mod:`~glmjobs.live.server` hands the pages to this machine's browsers alone.
"""
