"""How many real photos are right? A folder of class folders in, a table per class and in all out.

python benchmarks/photos.py FOLDER [MODEL ...]: a folder's name is a class name of the data set ("Ankle boot") or a key
of ANSWERS, the clothing data set's names. Without MODEL: the reference run and the record. Several are averaged.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd

from fmnist_utils import data, evaluation, photo, runs

ANSWERS = {
    "dress": ["Dress"], "longsleeve": ["Pullover", "Coat", "Shirt"], "outwear": ["Coat"], "pants": ["Trouser"],
    "shirt": ["Shirt"], "shoes": ["Sandal", "Sneaker", "Ankle boot"], "tshirt": ["T-shirt/top"],
}  # fmt: skip
MODELS = [runs.REFERENCE / runs.MODEL, runs.ROOT / "benchmarks" / "results" / "record-0" / runs.MODEL]


def allowed_answers(name):
    """Return the data set's classes that are right for a folder's name. Raises SystemExit for an unknown one."""
    known = {**{class_name.lower(): [class_name] for class_name in data.CLASS_NAMES}, "t-shirt": ["T-shirt/top"]}
    known |= ANSWERS
    if name.lower() not in known:
        raise SystemExit(f"{name}: no class of that name. Name the folder one of {', '.join(known)}.")
    return known[name.lower()]


def judge(path, model):
    """Return a row on one picture: class, file, right, warned, refused, probability and seconds."""
    row = {"class": path.parent.name, "file": path.name, "right": False, "refused": False, "probability": 0.0}
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            _, probability = photo.predict_photo(path, model)
            answer = data.CLASS_NAMES[probability.argmax()]
            row |= {"right": answer in allowed_answers(path.parent.name), "probability": float(probability.max())}
            row["answer"] = answer
        except photo.PhotoError as error:
            row |= {"refused": True, "answer": str(error)}
    return {**row, "warned": bool(told) or row["refused"], "seconds": time.perf_counter() - started}


def table(rows):
    """Return shares of pictures per class and in all: right, warned or refused, right where nothing was warned of."""
    every = pd.concat([rows, rows.assign(**{"class": "all"})])
    quiet = every[~every["warned"]].groupby("class", sort=False)["right"].mean()
    grouped = every.groupby("class", sort=False)
    columns = {
        "pictures": grouped["file"].nunique(), "right": grouped["right"].mean(), "warned": grouped["warned"].mean(),
        "right if not warned": quiet, "refused": grouped["refused"].mean(), "seconds": grouped["seconds"].median(),
    }  # fmt: skip
    counted = pd.DataFrame(columns)
    counted.loc["all", "pictures"] = len(rows[["class", "file"]].drop_duplicates())
    return counted


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=Path, nargs="*", default=MODELS)
    parser.add_argument("--csv", type=Path, help="write each picture's row here")
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.glob("*/*") if path.is_file() and path.suffix not in (".md", ".py"))
    if not paths:
        raise SystemExit(f"{args.folder}: no picture in a class folder. Wanted is FOLDER/CLASS/picture.jpg.")
    for path in paths:
        allowed_answers(path.parent.name)
    rows = pd.DataFrame(
        {"model": model.parent.name, **judge(path, network)}
        for model in args.models
        for network in [evaluation.load_model(model)]
        for path in paths
    )
    print(table(rows).to_string(float_format="{:.3f}".format, na_rep="-"))
    if args.csv:
        rows.to_csv(args.csv, index=False)


if __name__ == "__main__":
    main()
