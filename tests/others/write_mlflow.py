"""MLflow writes runs: `write_mlflow.py URL first|more`, run by the Python that has mlflow-skinny.

`first` creates the tables as well, by MLflow's migrations, and what `more` changes and deletes.
"""

from __future__ import annotations

import sys

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

TEXT = "naïve 漢\U0001f69a\n\t'\"\\ "
VALUES = (1 / 3, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 1e308, 0.1)


def track(client: MlflowClient, experiment: str, number: int) -> str:
    """Write a run with metrics of every kind of float, and return its id."""
    run = client.create_run(experiment, tags={"note": TEXT}, run_name=f"run {number}")
    key: str = run.info.run_id
    metrics = [
        Metric("loss/δ", value, timestamp=1_700_000_000_000 + step, step=step - 2)
        for step, value in enumerate(VALUES)
    ]
    client.log_batch(
        key,
        metrics=[*metrics, Metric("last", VALUES[number % len(VALUES)], 0, 0)],
        params=[Param(f"p{index}", TEXT * index) for index in range(5)],
        tags=[RunTag("long", "x" * 5_000), RunTag("empty", "")],
    )
    client.log_metric(key, "last", number, step=1)
    client.set_tag(key, "note", f"{TEXT} changed")
    client.delete_tag(key, "empty")
    client.set_terminated(key, status=("FINISHED", "FAILED", "KILLED")[number % 3])
    return key


def register(client: MlflowClient, name: str, run: str) -> None:
    """Write a registered model with versions, tags and an alias."""
    client.create_registered_model(name, tags={"owner": TEXT}, description=TEXT)
    for version in ("1", "2", "3"):
        client.create_model_version(name, f"file:///models/{version}", run, description="")
        client.set_model_version_tag(name, version, "checked", "true")
    client.set_registered_model_alias(name, "best", "1")
    client.set_registered_model_alias(name, "best", "2")
    client.update_model_version(name, "2", "better")
    client.delete_model_version(name, "1")


def evaluate(client: MlflowClient, experiment: str, run: str) -> None:
    """Write a logged model with a metric of a run, the run's input, and a set for evaluations."""
    model = client.create_logged_model(
        experiment, "model", source_run_id=run, tags={"note": TEXT}, params={"depth": "3"}
    )
    client.log_metric(run, "accuracy", 0.1, step=1, model_id=model.model_id)
    client.finalize_logged_model(model.model_id, "READY")
    read = Dataset("prices", "digest", "local", "{}", schema="{}", profile=TEXT)
    client.log_inputs(run, [DatasetInput(read, [InputTag("context", "training")])])
    client.create_dataset("questions", experiment_id=[experiment], tags={"note": TEXT})


def trace(client: MlflowClient, experiment: str, number: int) -> str:
    """Write a trace of two spans, whose durations PostgreSQL computes, and return its id."""
    root = client.start_trace(
        f"trace {number}", inputs={"question": TEXT}, tags={"n": "1"}, experiment_id=experiment
    )
    span = client.start_span("step", root.trace_id, root.span_id, attributes={"n": number})
    client.end_span(root.trace_id, span.span_id, outputs=[1, None, 0.1])
    client.end_trace(root.trace_id, outputs={"answer": number})
    key: str = root.trace_id
    return key


def assess(trace: str) -> None:
    """Write opinions on a trace: a boolean, a number, a document."""
    mlflow.log_feedback(trace_id=trace, name="right", value=True, rationale=TEXT)
    mlflow.log_feedback(trace_id=trace, name="score", value=0.1)
    mlflow.log_expectation(trace_id=trace, name="wanted", value={"answer": [1, None]})


def first(client: MlflowClient) -> None:
    """Create the tables, and experiments with some runs."""
    for name in ("kept", "deleted"):
        experiment = client.create_experiment(name, tags={"note": TEXT})
        for number in range(3):
            track(client, experiment, number)
    register(client, "old", run="")


def more(client: MlflowClient) -> None:
    """Add, change, delete and restore."""
    kept = client.get_experiment_by_name("kept").experiment_id
    runs = [track(client, kept, number) for number in range(20)]
    client.delete_run(runs[0])
    client.delete_run(runs[1])
    client.restore_run(runs[1])
    client.rename_experiment(kept, "renamed")
    for name in ("deleted", "restored"):
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        client.delete_experiment(experiment)
        if name == "restored":
            client.restore_experiment(experiment)
    register(client, "new", runs[2])
    client.rename_registered_model("new", "newer")
    client.delete_registered_model("old")
    evaluate(client, kept, runs[3])
    traces = [trace(client, kept, number) for number in range(3)]
    mlflow.flush_trace_async_logging()
    for key in traces[1:]:
        assess(key)
    client.delete_traces(kept, trace_ids=traces[:1])


def main(url: str, part: str) -> None:
    mlflow.set_tracking_uri(url)
    {"first": first, "more": more}[part](MlflowClient())
    mlflow.flush_trace_async_logging(terminate=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
