"""Self-checks tell right from wrong; in each notebook exactly one of the answers to choose from is right."""

import re

import nbformat
import numpy as np
import pytest

from fmnist_utils import lesson, runs

OPTIONS = ["none", "a handful", "hundreds"]


def shown(capsys, guess):
    lesson.self_check("copies", guess, OPTIONS, lesson.digest("copies", "a handful"))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("guess", "told"),
    [
        ("", "No guess yet. Choose one of: none, a handful, hundreds."),
        ("many", "'many' is none of the answers to choose from: none, a handful, hundreds."),
        ("a handful", "Right."),
        ("  A  Handful ", "Right."),
        ("hundreds", "Not so."),
    ],
)
def test_a_guess_is_judged(capsys, guess, told):
    assert shown(capsys, guess).startswith(told)


def test_the_right_answer_is_not_given_away(capsys):
    said = {guess: shown(capsys, guess) for guess in ("none", "hundreds")}
    assert said["none"] == said["hundreds"] and "handful" not in said["none"]
    assert lesson.digest("other", "a handful") != lesson.digest("copies", "a handful")


def test_an_exercise_is_solved_by_the_right_answer_alone(capsys):
    pair, third = lesson.digest("pair", ("Coat", "Shirt")), lesson.digest("third", "0.333")
    lesson.check_answer("pair", ["shirt", "coat"], pair)
    lesson.check_answer("third", 1 / 3, third, digits=3)
    assert capsys.readouterr().out == "right\nright\n"
    for question, answer, right, digits in (("pair", ("Coat", "Bag"), pair, None), ("third", 0.34, third, 3)):
        with pytest.raises(AssertionError, match="is not it"):
            lesson.check_answer(question, answer, right, digits)
    for nothing in (..., None, (..., ...)):
        with pytest.raises(AssertionError, match="write your answer above"):
            lesson.check_answer("third", nothing, third, digits=3)
    with pytest.raises(AssertionError, match="is no number"):
        lesson.check_answer("third", "a third", third, digits=3)


@pytest.mark.parametrize("answer", [51200, 51200.0, np.float64(51200), np.array(51200), "51200"])
def test_a_right_number_is_right_in_any_form(answer, capsys):
    lesson.check_answer("parameters", answer, lesson.digest("parameters", 51200))
    lesson.check_answer("pair", np.array(["Shirt", "Coat"]), lesson.digest("pair", ("Coat", "Shirt")))


class Recorder:
    """Stands for the module: keeps what a cell gives to its self-check."""

    def self_check(self, *given):
        self.given = given


def checks():
    """Yield (notebook, cell, question, options, right) of each self-check."""
    for path in sorted((runs.ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "self_check(" in cell.source:
                exec(cell.source, {"lesson": (recorder := Recorder())})
                question, _, options, right = recorder.given
                yield path, cell, question, options, right


ANSWERS = {  # what the notebooks show, and TEACHING.md tells the teacher
    "average images": "Coat and Pullover", "duplicates": "none", "shift": "the pooled responses",
    "most parameters": "the last convolution", "first step": "0.1", "first epoch": "more than four fifths",
    "validation loss": "fall and then rise",
    "test accuracy": "a little below it", "most mistakes": "Shirt", "photos": "the upright one",
    "seeds": "a few tenths of a point at most", "costs most": "the schedule",
    "erased": "about as many", "calibration": "more", "disturbance": "turning",
    "copies": "a few dozen",
}  # fmt: skip


def test_in_each_self_check_exactly_the_right_answer_is_right():
    found = {}
    for path, cell, question, options, right in checks():
        fitting = [option for option in options if lesson.digest(question, option) == right]
        assert fitting == [ANSWERS[question]], (path.name, cell.id)
        assert len(set(options)) == len(options) >= 2 and question not in found
        (output,) = cell.outputs
        assert output.text.startswith("No guess yet."), "stored with somebody's guess"
        found[question] = path.name
    assert found.keys() == ANSWERS.keys() and len(set(found.values())) == len(
        list((runs.ROOT / "notebooks").glob("*.ipynb"))
    )


def test_the_teachers_page_has_the_same_answers_and_minutes():
    rows = [line.strip("| ").split(" | ") for line in (runs.ROOT / "TEACHING.md").read_text().splitlines()]
    answers = [row[2] for row in rows if len(row) == 3 and re.fullmatch(r"0\d", row[0])]
    assert answers == [ANSWERS[question] for _, _, question, _, _ in checks()]
    minutes = {row[0][:2]: int(row[1]) for row in rows if len(row) == 3 and re.match(r"0\d [a-z]", row[0])}
    for path in sorted((runs.ROOT / "notebooks").glob("*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source
        assert minutes.pop(path.name[:2]) == int(re.search(r"\*\*Time\*\* (\d+) minutes", title)[1])
    assert not minutes
