"""Check a learner's guess, or the answer to an exercise, without giving the right one away."""

import hashlib
import sys

import numpy as np


def digest(question, answer):
    """Return what stands in a notebook in place of an answer.

    question: str. answer: a text, a number, or several in a list, whose order does not count; nor do case and spaces.
    """
    return hashlib.sha256(f"{question}: {_plain(answer)}".encode()).hexdigest()[:12]


def self_check(question, guess, options, right):
    """Say whether a guess is right, before the cell that shows it.

    question: its name, say "duplicates". guess: what the learner chose; "" for nothing yet. options: the answers to
    choose from. right: the digest of the right one, from `python -m fmnist_utils.lesson QUESTION ANSWER`.
    """
    choice = ", ".join(options)
    if not _plain(guess):
        print(f"No guess yet. Choose one of: {choice}.")
    elif _plain(guess) not in map(_plain, options):
        print(f"{guess!r} is none of the answers to choose from: {choice}.")
    elif digest(question, guess) == right:
        print("Right. Say why, then run on and see.")
    else:
        print("Not so. Think again, or run on and see.")


def solved(question, answer, right, digits=None):
    """Print "right" when the answer to an exercise is, else raise AssertionError.

    question, right: as for `self_check`. answer: see `digest`; `...` where nothing was written. digits: of a float,
    the decimal places that count.
    """
    answer = answer.tolist() if isinstance(answer, np.generic | np.ndarray) else answer
    if answer in (..., None) or (isinstance(answer, list | tuple) and ... in answer):
        raise AssertionError("write your answer above and run its cell first")
    given = int(answer) if isinstance(answer, float) and answer == int(answer) else answer
    if digits is not None:
        try:
            given = f"{float(answer):.{digits}f}"
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{answer!r} is no number") from error
    if digest(question, given) != right:
        raise AssertionError(f"{given} is not it")
    print("right")


def _plain(answer):
    if isinstance(answer, list | tuple | set):
        return " and ".join(sorted(map(_plain, answer)))
    return " ".join(str(answer).lower().split())


if __name__ == "__main__":
    print(digest(*sys.argv[1:]))
