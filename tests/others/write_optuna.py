"""Optuna writes studies: `write_optuna.py URL first|more`, run by the Python that has optuna.

`first` creates the tables as well, and the studies that `more` goes on with and deletes.
"""

from __future__ import annotations

import sys

import optuna
from optuna.storages import RDBStorage


def objective(trial: optuna.Trial) -> float:
    """Return a loss, and write what a search with a pruner writes."""
    rate = trial.suggest_float("rate", 1e-6, 1.0, log=True)
    layers = trial.suggest_int("layers", 1, 8)
    kind = trial.suggest_categorical("kind", ["linear", "größer", 'a "b" \\ c', None, True])
    trial.set_user_attr(
        "note", {"kind": kind, "text": "naïve 漢\U0001f69a\n\t'\"\\ " * trial.number}
    )
    for step in range(4):
        trial.report([rate * step, float("inf"), float("nan"), -1e300][step], step)
    if trial.number % 5 == 1:
        raise optuna.TrialPruned
    if trial.number % 5 == 2:
        raise ValueError("this trial fails")
    losses = (rate * layers, float("inf"), 1 / 3)
    return losses[trial.number % 3]


def search(storage: RDBStorage, name: str, trials: int) -> None:
    """Run trials of a study, which may exist, in three threads."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=1),
        pruner=optuna.pruners.NopPruner(),
    )
    study.set_user_attr("trials", trials)
    study.enqueue_trial({"rate": 0.5, "layers": 2, "kind": None}, user_attrs={"ours": name})
    study.optimize(objective, n_trials=trials, n_jobs=3, catch=(ValueError,))


def weigh(storage: RDBStorage, name: str) -> None:
    """Run a study with two objectives, whose sampler writes attributes of its own."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.NSGAIISampler(population_size=4, seed=1),
    )
    study.set_metric_names(["loss", "größe"])
    study.optimize(
        lambda trial: (trial.suggest_float("x", -1e-300, 1e300), float("-inf")), n_trials=12
    )


def main(url: str, part: str) -> None:
    storage = RDBStorage(url, heartbeat_interval=1)
    search(storage, "search", 6 if part == "first" else 30)
    if part == "first":
        search(storage, "old", 4)
    else:
        weigh(storage, "two objectives")
        search(storage, "brief", 3)
        for name in ("old", "brief"):
            optuna.delete_study(study_name=name, storage=storage)


if __name__ == "__main__":
    main(*sys.argv[1:])
