"""SwanLab: its run's id is the run's key; of a resumed run it takes no step twice."""

from __future__ import annotations

from collections.abc import Mapping

from glmjobs.tracking.records import Step
from glmjobs.tracking.session import Opening, Session


class SwanlabSession(Session):
    """A run at SwanLab, or in its files for ``swanlab sync``."""

    def __init__(self, opening: Opening) -> None:
        import swanlab

        target = opening.target
        owner, _, project = target.project.rpartition("/")
        quiet = {
            "interactive": False,
            "terminal": {"proxy_type": "none"},
            "probe": {
                "hardware": False,
                "runtime": False,
                "requirements": False,
                "git": False,
                "monitor": False,
            },
        }  # not what this process does
        settings = swanlab.Settings.model_validate(quiet)
        self.run = swanlab.init(
            project=project, workspace=owner or None, id=opening.key, name=opening.name, resume="allow",
            mode="offline" if target.offline else "online", log_dir=str(opening.staging), settings=settings,
            config=dict(opening.config), reinit=True,
        )  # fmt: skip
        self.url = None if target.offline else self.run.url

    def step(self, step: Step) -> None:
        """One step's figures."""
        self.run.log(step.values, step=step.step)

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """SwanLab has no figures of the whole: each is a curve of one point, at the last step."""
        self.run.log(dict(values), step=max(0, step))

    def close(self, *, finished: bool) -> None:
        """Everything is uploaded, or on disk."""
        self.run.finish()
