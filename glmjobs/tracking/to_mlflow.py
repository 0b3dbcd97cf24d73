"""MLflow: a run is found again by a tag with the run's key, and asked which steps it has."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

from glmjobs.tracking.records import Step
from glmjobs.tracking.session import Opening, Session
from glmjobs.tracking.state import NOTHING
from hpc.core.config_files import flat

TAG = "glmjobs.key"
AT_ONCE = 100
"""Parameters or tags of a request: the server takes no more (MLflow's REST API, runs/log-batch)."""

CURVES = ("train/loss", "dev/loss")
"""One of them is in every step, unless that has no finite number."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""MLflow's own: seven times two minutes."""

LONGEST = 500
"""Characters of a parameter's value: the least that any server since 2.0 takes."""


class MlflowSession(Session):
    """A run at an MLflow server, or in its database."""

    def __init__(self, opening: Opening) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.client = MlflowClient()
        self.id = self._run(opening.target.project, opening.key, opening.name)
        histories = [self.client.get_metric_history(self.id, curve) for curve in CURVES]
        self.has = max((metric.step for history in histories for metric in history), default=NOTHING)
        self._settings(opening.config)
        if opening.target.url:
            run = self.client.get_run(self.id)
            self.url = f"{opening.target.url}/#/experiments/{run.info.experiment_id}/runs/{self.id}"

    def _run(self, experiment: str, key: str, name: str) -> str:
        """The id of the run that has this key; made where there is none."""
        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found is not None else self.client.create_experiment(experiment)
        runs = self.client.search_runs([number], f"tags.`{TAG}` = '{key}'")
        run = runs[0] if runs else self.client.create_run(number, tags={TAG: key}, run_name=name)
        return str(run.info.run_id)

    def _settings(self, config: Mapping[str, Any]) -> None:
        """Parameters, which MLflow lets nobody change: what heal has changed is a tag beside them."""
        from mlflow.entities import Param, RunTag

        texts = ((name, v if isinstance(v, str) else json.dumps(v)) for name, v in flat(config).items())
        wanted = {name: value[:LONGEST] for name, value in texts}
        there = self.client.get_run(self.id).data.params
        fresh = iter([Param(name, value) for name, value in wanted.items() if name not in there])
        while params := list(islice(fresh, AT_ONCE)):
            self.client.log_batch(self.id, params=params)
        changed = {name: value for name, value in wanted.items() if there.get(name, value) != value}
        if changed:
            self.client.log_batch(self.id, tags=[RunTag(f"changed.{name}", v) for name, v in changed.items()])

    def step(self, step: Step) -> None:
        """One step's figures, in one request."""
        from mlflow.entities import Metric

        when = round(1000 * step.time)
        metrics = [Metric(name, value, when, step.step) for name, value in step.values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """Metrics with one value, which are not sent again while they are the same."""
        there = self.client.get_run(self.id).data.metrics
        for name, value in values.items():
            if there.get(name) != value:
                self.client.log_metric(self.id, name, value, step=max(0, step))

    def close(self, *, finished: bool) -> None:
        """The run's state, as MLflow shows it."""
        if finished:
            self.client.set_terminated(self.id, "FINISHED")
        else:
            self.client.update_run(self.id, status="RUNNING")
