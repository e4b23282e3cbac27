"""Self-checks and exercises tell right from wrong; TEACHING.md and questions.yaml agree."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from shipped import shipped

from fmnist_utils import lesson, runs
from fmnist_utils._files import read_yaml

QUESTIONS = read_yaml(lesson.QUESTIONS)["self_checks"]
PATHS = shipped("notebooks/*.ipynb")
TEACHING = [
    line.strip("| ").split(" | ") for line in (runs.ROOT / "TEACHING.md").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize(
    ("guess", "reply"),
    [
        ("", "No guess yet. Choose one of: none, a handful, hundreds."),
        ("many", "'many' is none of the answers to choose from: none, a handful, hundreds."),
        ("none", "Right."),
        ("  NONE ", "Right."),
        ("hundreds", "Not so."),
        ("a handful", "Not so."),
    ],
)
def test_self_check_of_a_guess(capsys, guess, reply):
    lesson.self_check("duplicates", guess)
    assert capsys.readouterr().out.startswith(reply)


def test_digest_of_one_answer_to_two_questions():
    assert lesson.digest("duplicates", "none") != lesson.digest("photos", "none")


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """A file of answers in the place of the package's own."""
    pair, third = lesson.digest("pair", ["Coat", "Shirt"]), lesson.digest("third", "0.333")
    known = {"pair": {"digest": pair}, "third": {"digest": third, "decimals": 3}}
    known["count"] = {"digest": lesson.digest("count", 51200)}
    (tmp_path / "questions.yaml").write_text(f"exercises: {known}", encoding="utf-8")
    monkeypatch.setattr(lesson, "QUESTIONS", tmp_path / "questions.yaml")


RIGHT = [("pair", ["shirt", "coat"]), ("pair", np.array(["Shirt", "Coat"])), ("third", 1 / 3)]
RIGHT += [("pair", pd.Series(["Coat", "Shirt"]))]
RIGHT += [("count", answer) for answer in (51200, 51200.0, np.float64(51200), np.array(51200), "51200")]


@pytest.mark.parametrize(("question", "answer"), RIGHT)
def test_check_answer_right_in_any_form(capsys, answers, question, answer):
    lesson.check_answer(question, answer)
    assert capsys.readouterr().out == "right\n"


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [("pair", ["Coat", "Bag"], "is not it"), ("third", 0.34, "is not it"), ("third", "a third", "is no number"),
     ("third", np.inf, "is not it"), ("count", np.nan, "is not it"), ("count", -np.inf, "is not it"),
     ("third", ..., "write your answer above"), ("third", None, "write your answer"), ("pair", (..., ...), "write")],
)  # fmt: skip
def test_check_answer_wrong_or_missing(answers, question, answer, message):
    with pytest.raises(AssertionError, match=message):
        lesson.check_answer(question, answer)


def check_cells():
    """Return [(question, notebook's number, cell)] of all self-checks, in their order."""
    found = []
    for path in PATHS:
        for cell in nbformat.read(path, as_version=4).cells:
            if asked := re.search(r'lesson\.self_check\("(.+?)", (\w+)\)', cell.source):
                found.append((asked[1], path.name[:2], cell))
    return found


def test_self_checks_of_the_notebooks_are_those_of_questions_yaml():
    asked = [question for question, _, _ in check_cells()]
    assert asked == list(QUESTIONS), "keep questions.yaml in the notebooks' order, with each question once"
    assert {number for _, number, _ in check_cells()} == {path.name[:2] for path in PATHS}, "ask in every notebook"


@pytest.mark.parametrize(("question", "number", "cell"), check_cells(), ids=[found[0] for found in check_cells()])
def test_self_check_stored_without_a_guess(question, number, cell):
    assert cell.outputs[0].text.startswith("No guess yet."), "empty the guess and run `make notebooks`"


def test_teachers_page_has_the_right_answer_to_each_self_check():
    answers = [row[2] for row in TEACHING if len(row) == 3 and re.fullmatch(r"0\d", row[0])]
    assert len(answers) == len(QUESTIONS), "give TEACHING.md a row for each self-check, in the notebooks' order"
    for answer, (question, known) in zip(answers, QUESTIONS.items(), strict=True):
        right = [choice for choice in known["choices"] if lesson.digest(question, choice) == known["digest"]]
        assert right == [answer], f"{question}: TEACHING.md and questions.yaml differ"


def test_teachers_page_has_the_minutes_of_each_notebook():
    minutes = {row[0][:2]: int(row[1]) for row in TEACHING if len(row) == 3 and re.match(r"0\d [a-z]", row[0])}
    for path in PATHS:
        title = nbformat.read(path, as_version=4).cells[0].source
        assert minutes.pop(path.name[:2]) == int(re.search(r"\*\*Time\*\* (\d+) minutes", title)[1]), path.name
    assert not minutes
