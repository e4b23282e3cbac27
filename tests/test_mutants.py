"""The table of faults fits the project as it is, and a few of them are caught; `make mutants` tries all."""

import shutil

import mutants
import nbformat
import pytest

# by a unit test or a contract, in seconds
QUICK = [
    "scaling forgotten", "two class names swapped", "confusion matrix transposed", "interval for the wrong n",
    "dropout and batch norm in use as in training", "validation curve shows training", "softmax twice",
    "seeds not paired", "a bad value is let through", "an execution count cleared", "a parameter ignored",
]  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for part in ("fmnist_utils", "notebooks", "params"):
        shutil.copytree(mutants.ROOT / part, folder / part)
    return folder


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=[mutant[0] for mutant in mutants.MUTANTS])
def test_each_fault_can_be_put_in_and_taken_out(mutant, copy):
    path = copy / mutant[1]
    before = path.read_text(encoding="utf-8")
    undo = mutants.apply(mutant, copy)
    assert path.read_text(encoding="utf-8") != before
    if path.suffix == ".py":
        compile(path.read_text(encoding="utf-8"), path.name, "exec")
    if path.suffix == ".ipynb":
        nbformat.read(path, as_version=4)
    undo()
    assert path.read_text(encoding="utf-8") == before


def test_the_faults_are_many_and_different():
    assert len(mutants.MUTANTS) >= 30
    assert len({mutant[0] for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS)


def test_the_tests_of_each_gate_are_there():
    files = {mutant[1] for mutant in [*mutants.MUTANTS, *mutants.ignored_arguments()]}
    words = {word for file in files for _, arguments in mutants.gates(file) for word in arguments if "/" in word}
    assert len(words) > 10 and not [word for word in sorted(words) if not (mutants.ROOT / word).is_file()]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return mutants.copy_of_the_project(tmp_path_factory.mktemp("project"))


@pytest.mark.slow
@pytest.mark.parametrize("what", QUICK)
def test_a_quick_choice_of_faults_is_caught_by_a_cheap_gate(what, project):
    (mutant,) = [mutant for mutant in mutants.MUTANTS if mutant[0] == what]
    gate, _ = mutants.hunt(mutant, project)
    assert gate in ("unit", "contract")
