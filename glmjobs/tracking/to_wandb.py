"""wandb: its run's id is the run's key; a step that it has passed it does not take again."""

from __future__ import annotations

from collections.abc import Mapping

from glmjobs.tracking.records import Step
from glmjobs.tracking.session import Opening, Session
from glmjobs.tracking.state import NOTHING

INIT_SECONDS = 60


class WandbSession(Session):
    """A run at wandb, or in its files for ``wandb sync``."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        target = opening.target
        owner, _, project = target.project.rpartition("/")
        settings = wandb.Settings(
            mode="offline" if target.offline else "online", base_url=target.url, console="off", silent=True,
            disable_git=True, disable_code=True, save_code=False, init_timeout=INIT_SECONDS,
        )  # fmt: skip
        for name in (
            "x_disable_stats",
            "x_disable_meta",
            "x_disable_machine_info",
        ):  # not what this process does
            if name in type(settings).model_fields:
                setattr(settings, name, True)
        self.run = wandb.init(
            project=project, entity=owner or None, id=opening.key, name=opening.name, resume="allow",
            dir=str(opening.staging), settings=settings, reinit="create_new",
        )  # fmt: skip
        self.run.config.update(dict(opening.config), allow_val_change=True)
        self.has = int(self.run.starting_step) - 1 if not target.offline else NOTHING
        self.url = None if target.offline else self.run.url

    def step(self, step: Step) -> None:
        """One row of the history, at the time when it was trained."""
        self.run.log({**step.values, "_timestamp": step.time}, step=step.step)

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """The run's summary."""
        self.run.summary.update(dict(values))

    def close(self, *, finished: bool) -> None:
        """Everything is uploaded, or on disk."""
        self.run.finish()
