"""How many photos are right? python benchmarks/photos.py FOLDER [MODEL …]

FOLDER/CLASS/picture: CLASS is one of the data set ("Ankle boot") or of CLOTHES, the names of the clothing data set.
MODEL: a model.keras in a run's folder, by default the reference run's; several are averaged. Writes FOLDER/photos.csv.
"""

import sys
import warnings
from pathlib import Path

import pandas as pd

from fmnist_utils import data, evaluation, photo, runs

CLOTHES = {
    "dress": ["Dress"], "longsleeve": ["Pullover", "Coat", "Shirt"], "outwear": ["Coat"], "tshirt": ["T-shirt/top"],
    "pants": ["Trouser"], "shirt": ["Shirt"], "shoes": ["Sandal", "Sneaker", "Ankle boot"], "T-shirt": ["T-shirt/top"],
}  # fmt: skip
CLASSES = CLOTHES | {name: [name] for name in data.CLASS_NAMES}


def judge(path, model):
    """Say whether a picture is predicted right, and whether it was warned of; a refused one is wrong and warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            answer = data.CLASS_NAMES[photo.predict_photo(path, model)[1].argmax()]
        except photo.PhotoError as error:
            answer, told = "", [error]
    facts = {"class": path.parent.name, "file": path.name, "answer": answer}
    return {**facts, "right": answer in CLASSES[path.parent.name], "warned": bool(told)}


if __name__ == "__main__":
    folder, *models = sys.argv[1:] or [""]
    paths = [path for name in CLASSES for path in sorted(Path(folder, name).glob("*.*"))]
    if not paths:
        sys.exit(__doc__)
    models = [(Path(p).parent.name, evaluation.load_model(p)) for p in models or [runs.REFERENCE / runs.MODEL]]
    rows = pd.DataFrame([{"model": name, **judge(path, model)} for name, model in models for path in paths])
    rows.to_csv(Path(folder, "photos.csv"), index=False)
    rows = pd.concat([rows, rows.assign(**{"class": "all"})])
    quiet = rows[~rows["warned"]].groupby("class")["right"].mean().rename("right if not warned")
    print(rows.groupby("class")[["right", "warned"]].mean().join(quiet).round(3))
