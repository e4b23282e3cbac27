"""Renew the numbers in README.md from the files that hold them: `python tools/readme_numbers.py`.

A number stands between two comments, which a reader of the page does not see: <!-- quick.seconds -->37<!-- / -->. Its
name is a key of `numbers`. No comment may begin a line, where Markdown would take the whole line for HTML.
"""

import json
import re

import pandas as pd

from fmnist_utils import comparison, runs

README = runs.ROOT / "README.md"
RESULTS = runs.ROOT / "benchmarks" / "results"
MARKED = re.compile(r"<!-- ([a-z0-9_.]+) -->(.*?)<!-- / -->", re.DOTALL)


def numbers():
    """Return {name: text} of all numbers that README.md may show."""
    return {**_reference(), **_benchmark(), **_ablation(), **_sweeps(), **_tests()}


def renew(text):
    """Return the text with each marked number as the files have it.

    Raises:
        ValueError: There is no number of a marked name.
    """
    known = numbers()
    if unknown := {name for name, _ in MARKED.findall(text)} - known.keys():
        raise ValueError(f"README.md marks {', '.join(sorted(unknown))}: allowed are {', '.join(known)}")
    return MARKED.sub(lambda match: f"<!-- {match[1]} -->{known[match[1]]}<!-- / -->", text)


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _reference():
    metrics, test = (_read(runs.REFERENCE / name) for name in (runs.METRICS, runs.TEST_METRICS))
    low, high = (f"{100 * test[f'test_accuracy_{end}']:.2f}" for end in ("low", "high"))
    return {
        "reference.training": f"{metrics['train_seconds']:.0f} s, {metrics['epochs_run']} epochs",
        "reference.validation": f"{100 * metrics['val_accuracy']:.2f} %",
        "reference.test": f"{100 * test['test_accuracy']:.2f} % ({low} to {high} %)",
        "memory": f"{max(_read(RESULTS / 'peak_memory.json')['gigabytes'].values()):.2f} GB",
        "reference.parameters": f"{metrics['model_parameters']:,}",
    }


def _benchmark():
    result = _read(RESULTS / "time_to_accuracy.json")
    quick, plain, step = result["quick"], result["plain"], result["step"]
    series = {
        f"{name}.{what}": text
        for name in ("quick", "full", "record", "plain")
        for what, text in {
            "test": f"{100 * result[name]['test_accuracy_mean']:.2f} %",
            "seeds": f"{result[name]['seeds'][0]} to {result[name]['seeds'][-1]}",
            "spread": f"{100 * result[name]['test_accuracy_std']:.2f} points",
        }.items()
    }
    return {
        **series,
        "quick.seconds": f"{quick['train_seconds_median']:.0f} s",
        "step.bfloat16": f"{step['mixed_bfloat16']['new_ms']:.1f} ms",
        "step.float32": f"{step['float32']['new_ms']:.1f} ms",
        "step.ratios": f"{step['mixed_bfloat16']['ratio']:.2f} and {step['float32']['ratio']:.2f} times",
        "fit.overhead": f"{100 * result['fit_overhead']:.1f} %",
        "fit.validation": f"{result['validation_seconds']:.1f} s",
        "fit.graph": f"{result['graph_seconds']:.1f} s",
        "plain.seconds": f"{plain['train_seconds_median']:.0f} s",
        "plain.epoch": f"{plain['epoch_seconds_median']:.0f} s",
        "plain.ratio": f"{int(10 * result['ratio_to_93']) / 10} times",  # rounded down: "at least"
    }


def _ablation():
    table = comparison.read_runs(runs.ROOT / "sweeps" / "results" / "ablation")
    lost = -100 * comparison.paired_differences(table, comparison.BASE)["mean"]
    changes = {
        "schedule": "schedule = constant", "batch_norm": "batch_norm = False", "stride": "downsampling = stride",
        "average_pooling": "downsampling = average",
    }  # fmt: skip
    return {f"ablation.{name}": f"{lost[change]:.2f}" for name, change in changes.items()}


def _sweeps():
    entries = {" ".join(entry["changes"]): entry for entry in _read(RESULTS / "sweep_throughput.json")}
    short, quick = entries["train_size=2000"], entries[""]
    beyond = short["overhead_seconds_median"] + short["fit_beyond_steps_seconds_median"]
    return {
        "sweep.gain": f"{short['gain_median']} times",
        "sweep.seconds": f"{short['train_seconds_median']:.0f} s",
        "sweep.gain_quick": f"{quick['gain_median']} times",
        "sweep.overhead": f"{short['overhead_seconds_median']} s",
        "sweep.beyond_steps": f"{beyond:.0f} s",
    }


def _tests():
    mutants = (RESULTS / "mutants.txt").read_text(encoding="utf-8").splitlines()
    gates = [line.split()[0] for line in mutants[2:-1]]
    steady = pd.read_csv(RESULTS / "nbval_steady.csv")
    return {
        "mutants.caught": mutants[-1].removeprefix("caught "),
        **{f"mutants.{gate}": str(gates.count(gate)) for gate in ("unit", "contract", "nbval")},
        "flakiness.green": f"{steady['green'].sum()} of {len(steady)} runs",
        "flakiness.cells": str(steady["cells"].max()),
        "coverage": (RESULTS / "coverage.txt")
        .read_text(encoding="utf-8")
        .split("TOTAL")[1]
        .split()[2]
        .replace("%", " %"),
    }


if __name__ == "__main__":
    README.write_text(renew(README.read_text(encoding="utf-8")), encoding="utf-8")
