"""Check a learner's guess, or the answer to an exercise, without giving the right one away.

questions.yaml, beside this file, holds the questions: the choices, and a digest in place of the right answer.
`python -m fmnist_utils.lesson QUESTION ANSWER` prints the digest of a new one.
"""

import hashlib
import sys
from pathlib import Path

import yaml

QUESTIONS = Path(__file__).with_name("questions.yaml")


def digest(question: str, answer) -> str:
    """Return what stands in questions.yaml in place of an answer.

    Args:
        question: Its name, say "duplicates".
        answer: A text, a number, or several in a list, whose order does not count; nor do case and spaces.
    """
    return hashlib.sha256(f"{question}: {_normalise(answer)}".encode()).hexdigest()[:12]


def self_check(question: str, guess: str):
    """Say whether a guess is right, before the cell that shows it.

    Args:
        question: Its name in questions.yaml.
        guess: What the learner chose; "" for nothing yet, which prints the choices.
    """
    known = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))["self_checks"][question]
    choices = ", ".join(known["choices"])
    if not _normalise(guess):
        print(f"No guess yet. Choose one of: {choices}.")
    elif _normalise(guess) not in map(_normalise, known["choices"]):
        print(f"{guess!r} is none of the answers to choose from: {choices}.")
    elif digest(question, guess) == known["digest"]:
        print("Right. Say why, then run on and see.")
    else:
        print("Not so. Think again, or run on and see.")


def check_answer(question: str, answer):
    """Print "right" when the answer to an exercise is.

    Args:
        question: Its name in questions.yaml, where `decimals` says how many of a number's count.
        answer: See `digest`; `...` where nothing was written.

    Raises:
        AssertionError: The answer is missing or wrong.
    """
    known = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))["exercises"][question]
    answer = answer.tolist() if hasattr(answer, "tolist") else answer  # of NumPy or pandas
    if answer in (..., None) or (isinstance(answer, list | tuple) and ... in answer):
        raise AssertionError("write your answer above and run its cell first")
    given = int(answer) if isinstance(answer, float) and answer.is_integer() else answer
    if "decimals" in known:
        try:
            given = f"{float(answer):.{known['decimals']}f}"
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{answer!r} is no number") from error
    if digest(question, given) != known["digest"]:
        raise AssertionError(f"{given} is not it")
    print("right")


def _normalise(answer):
    if isinstance(answer, list | tuple | set):
        return " and ".join(sorted(map(_normalise, answer)))
    return " ".join(str(answer).lower().split())


if __name__ == "__main__":
    print(digest(*sys.argv[1:]))
