"""Pack a folder of runs into two small files that notebook 05 reads like the folder: runs.csv and predictions.npz.

python tools/export_runs.py runs/ablation sweeps/results/ablation
"""

import sys
from pathlib import Path

import numpy as np

from fmnist_utils import comparison, runs


def export_runs(folder, target):
    folder, target = Path(folder), Path(target)
    table = comparison.read_runs(folder).drop(columns="configuration")
    comparison.load_correctness(folder, table.index)  # refuses runs of different images
    predictions = {name: runs.read_predictions(runs.Run(folder / name, {})) for name in table.index}
    index, label, _ = next(iter(predictions.values()))
    target.mkdir(parents=True, exist_ok=True)
    classes = {name: y_prob.argmax(axis=1).astype("uint8") for name, (_, _, y_prob) in predictions.items()}
    runs.write_npz(target / comparison.PREDICTIONS, index=np.int32(index), label=np.uint8(label), **classes)
    with runs.atomic_write(target / comparison.TABLE) as temporary:
        table.to_csv(temporary, encoding=runs.UTF8)


if __name__ == "__main__":
    export_runs(*sys.argv[1:])
