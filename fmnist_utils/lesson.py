"""Check a learner's guess, or the answer to an exercise, without giving the right one away.

questions.yaml has a digest in place of the right answer: `python -m fmnist_utils.lesson QUESTION ANSWER` prints it.
"""

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

import yaml

QUESTIONS = Path(__file__).with_name("questions.yaml")


def digest(question: str, answer) -> str:
    """Return what stands in for an answer, which is a text, a number, or a list of them in any order."""
    answers = answer if isinstance(answer, list | tuple | set) else [answer]
    plain = " and ".join(sorted(" ".join(str(one).lower().split()).removesuffix(".0") for one in answers))
    return hashlib.sha256(f"{question}: {plain}".encode()).hexdigest()[:12]


def self_check(question: str, guess):
    """Say whether a guess is right, before the cell that shows it; if it is empty, which choices there are."""
    known = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))["self_checks"][question]
    if digest(question, guess) not in [digest(question, choice) for choice in known["choices"]]:
        told = f"{guess!r} is none of the answers." if str(guess).strip() else "No guess yet."
        print(f"{told} Choose one of: {', '.join(known['choices'])}.")
    elif digest(question, guess) == known["digest"]:
        print("Right. Say why, then run on and see.")
    else:
        print("Not so. Think again, or run on and see.")


def check_answer(question: str, answer):
    """Print "right" if the answer to an exercise is right; else, or if it is still `...`, raise AssertionError."""
    known = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))["exercises"][question]
    answer = answer.tolist() if hasattr(answer, "tolist") else answer  # of NumPy or pandas
    check(... not in (answer if isinstance(answer, list | tuple) else [answer]), "write your answer above first")
    with suppress(KeyError, TypeError, ValueError):  # no decimals asked for, or no number given
        answer = f"{float(answer):.{known['decimals']}f}"
    check(digest(question, answer) == known["digest"], f"{answer} is not the answer")
    print("right")


def check(condition, complaint: str):
    """Raise AssertionError with a complaint if a condition does not hold: under PYTHONOPTIMIZE, too."""
    if not condition:
        raise AssertionError(complaint)


if __name__ == "__main__":
    print(digest(*sys.argv[1:]))
