"""Self-checks and exercises tell right from wrong, under PYTHONOPTIMIZE too; teachers have the right answers."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml

from fmnist_utils import lesson, runs

KNOWN = yaml.safe_load(lesson.QUESTIONS.read_text(encoding="utf-8"))
NOTEBOOKS, EXERCISES = (
    "".join(path.read_text("utf-8") for path in sorted((runs.ROOT / "notebooks" / folder).glob("*[a-z].ipynb")))
    for folder in ("", "exercises")
)
PAIR, THIRD = {"digest": lesson.digest("q", ["Coat", "Shirt"])}, {"digest": lesson.digest("q", "0.333"), "decimals": 3}
COUNT = {"digest": lesson.digest("q", 51200)}


@pytest.mark.parametrize(("guess", "reply"), [
    ("", "No guess yet. Choose one of: Bag, Coat, Shirt, Sneaker."), ("Dress", "'Dress' is none of the answers."),
    (0.5, "0.5 is none"), ("Shirt", "Right."), ("  SHIRT ", "Right."), ("Coat", "Not so.")])  # fmt: skip
def test_self_check_of_a_guess(capsys, guess, reply):
    lesson.self_check("most mistakes", guess)
    assert capsys.readouterr().out.startswith(reply)


@pytest.mark.parametrize(("known", "answer", "message"), [
    (PAIR, ["shirt", "coat"], ""), (PAIR, np.array(["Shirt", "Coat"]), ""), (PAIR, pd.Series(["Coat", "Shirt"]), ""),
    (THIRD, 1 / 3, ""), (COUNT, 51200.0, ""), (COUNT, np.float64(51200), ""), (COUNT, np.array(51200), ""),
    (COUNT, "51200", ""), (PAIR, ["Coat", "Bag"], "is not the answer"), (THIRD, 0.34, "not the"),
    (THIRD, np.inf, "not the"), (THIRD, None, "None is not"), (THIRD, [1, 2], "not the"), (COUNT, np.nan, "not the"),
    (THIRD, ..., "write your"), (PAIR, (..., ...), "write your")])  # fmt: skip
def test_answer_to_an_exercise_in_any_form(capsys, tmp_path, monkeypatch, known, answer, message):
    (tmp_path / "questions.yaml").write_text(f"exercises: {{q: {known}}}", encoding="utf-8")
    monkeypatch.setattr(lesson, "QUESTIONS", tmp_path / "questions.yaml")
    if message:
        with pytest.raises(AssertionError, match=message):
            lesson.check_answer("q", answer)
    else:
        lesson.check_answer("q", answer)
    assert capsys.readouterr().out == ("" if message else "right\n")


def test_exercises_check_without_assert():
    assert not re.findall(r'"\s*assert .*', EXERCISES), "write lesson.check(...): PYTHONOPTIMIZE leaves assert out"


def test_questions_and_teachers_answers_are_those_of_the_notebooks():
    asked = re.findall(r'lesson\.self_check\(\\"(.+?)\\"', NOTEBOOKS)
    assert sorted(asked) == sorted(KNOWN["self_checks"])
    assert sorted(re.findall(r'lesson\.check_answer\(\\"(.+?)\\"', EXERCISES)) == sorted(KNOWN["exercises"])
    told = re.findall(r"^\| 0\d \| .+ \| (.+) \|$", (runs.ROOT / "TEACHING.md").read_text("utf-8"), re.MULTILINE)
    right = [KNOWN["self_checks"][name]["digest"] for name in asked]
    assert list(map(lesson.digest, asked, told)) == right, "TEACHING.md has each answer, in the notebooks' order"
