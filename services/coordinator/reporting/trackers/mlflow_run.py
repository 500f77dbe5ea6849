"""An MLflow run: the recipe as params, numbers by step, samples of evaluations as artifacts.

Params cannot be changed there: what a resumed run has changed is in tags `changed.<key>`.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence

from services.coordinator.reporting.trackers.tracker import DONE, FAILED, About, Text

RUN_TAG = "penstock.run"  # how the run is found again
_MOST_ENTRIES, _LONGEST_VALUE = 100, 500  # of one request to a tracking server; older servers take 500 characters
_STATUS = {DONE: "FINISHED", FAILED: "FAILED"}  # the others were ended from outside: KILLED


class Mlflow:
    """The run whose tag is the run's own id; a resumed run goes on in it."""

    def __init__(self, experiment: str, about: About) -> None:
        import mlflow
        from mlflow.entities import Metric, Param, RunTag

        self._client, self._metric = mlflow.MlflowClient(), Metric
        entity = mlflow.set_experiment(experiment)
        found = self._client.search_runs([entity.experiment_id], f"tags.`{RUN_TAG}` = '{about.id}'")
        tags = {f"penstock.{name}": path for name, path in about.links.items()}
        tags |= {f"tag.{tag}": "true" for tag in about.tags}
        if found:
            self._id, known = found[0].info.run_id, found[0].data.params
            self._client.update_run(self._id, status="RUNNING")
        else:
            made = self._client.create_run(entity.experiment_id, tags={RUN_TAG: about.id}, run_name=about.name)
            self._id, known = made.info.run_id, {}
        settings = {key: value[:_LONGEST_VALUE] for key, value in about.settings().items()}
        tags |= {f"changed.{key}": value for key, value in settings.items() if known.get(key, value) != value}
        for some in _in_parts(settings):
            self._client.log_batch(self._id, params=[Param(k, v) for k, v in some if k not in known])
        for some in _in_parts(tags):
            self._client.log_batch(self._id, tags=[RunTag(k, v) for k, v in some])

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in numbers.items()])

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        self.step(step, numbers)
        if texts:
            rows = {"columns": Text.columns(), "data": [list(dataclasses.astuple(text)) for text in texts]}
            self._client.log_dict(self._id, rows, f"eval/sample_texts-{step:06d}.json")

    def end(self, state: str) -> None:
        self._client.set_tag(self._id, "penstock.state", state)
        self._client.set_terminated(self._id, _STATUS.get(state, "KILLED"))


def _in_parts(entries: Mapping[str, str]) -> list[list[tuple[str, str]]]:
    pairs = list(entries.items())
    return [pairs[i : i + _MOST_ENTRIES] for i in range(0, len(pairs), _MOST_ENTRIES)]
