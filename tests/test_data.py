"""The data set in the form that a network takes, and its split."""

import re

import numpy as np
import pytest

from fmnist_utils import data

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))


def test_scale_bytes():
    """0 to 255 become [0, 1], and the channel is added."""
    x = np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)
    scaled = data.scale(x)
    assert (scaled.shape, scaled.dtype) == ((2, 28, 28, 1), np.float32)
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_array_equal(np.round(scaled[..., 0] * 255), x)


@pytest.mark.parametrize(
    "x",
    [data.scale(np.zeros((2, 28, 28), np.uint8)), np.zeros((2, 28, 28)), np.zeros((2, 28, 28), np.int64),
     np.zeros((28, 28), np.uint8), np.zeros((2, 28, 28, 1), np.uint8), np.zeros((2, 32, 32), np.uint8)],
    ids=["scaled", "float", "int64", "one image", "with channel", "other size"],
)  # fmt: skip
def test_scale_not_as_loaded(x):
    with pytest.raises(ValueError, match=re.escape(f"got {x.shape} {x.dtype}")):
        data.scale(x)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_one_hot_class_numbers(dtype):
    rows = data.one_hot(np.array([3, 0, 9], dtype))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.eye(10)[[3, 0, 9]])


@pytest.mark.parametrize(
    "y",
    [np.eye(10), np.eye(10, dtype=np.uint8), np.array([1.0, 2.0]), np.array([10]), np.array([-1]), np.array([True])],
    ids=["one-hot", "one-hot bytes", "float", "ten", "negative", "bool"],
)
def test_one_hot_no_class_numbers(y):
    with pytest.raises(ValueError, match="class numbers"):
        data.one_hot(y)


@pytest.mark.parametrize(("options", "each"), [({}, 20), ({"fraction": 0.2}, 20), ({"fraction": 0.35}, 35)], ids=str)
def test_split_shares(options, each):
    """The parts are disjoint, cover all, and each class has its share of both."""
    train, valid = data.stratified_split(LABELS, **options)
    assert sorted([*train, *valid]) == list(range(len(LABELS)))
    assert np.bincount(LABELS[train]).tolist() == [100 - each] * 10
    assert np.bincount(LABELS[valid]).tolist() == [each] * 10


@pytest.mark.parametrize("train_size", [0, 250])
def test_split_seed(train_size):
    """The seed draws both parts, a reduced training part too."""
    parts = [data.stratified_split(LABELS, seed=seed, train_size=train_size) for seed in (1, 1, 2)]
    for first, again, other in zip(*parts, strict=True):
        np.testing.assert_array_equal(first, again)
        assert first.tolist() != other.tolist()
    assert parts[0][1].min() < 800, "the validation part is the end of the set"


def test_split_subset_seed(monkeypatch):
    """Of one and the same training part, another seed keeps other images."""
    real, kept = data.train_test_split, {}
    for seed in (1, 2):

        def split(index, random_state, seed=seed, **words):
            return real(index, random_state=0 if "test_size" in words else random_state, **words)

        monkeypatch.setattr(data, "train_test_split", split)
        kept[seed] = data.stratified_split(LABELS, seed=seed, train_size=250)[0].tolist()
    assert kept[1] != kept[2]


@pytest.mark.parametrize("train_size", [10, 250, 790, 800])
def test_split_train_size(train_size):
    """It is kept exactly, stratified, and leaves the validation part alone."""
    train_all, valid_all = data.stratified_split(LABELS)
    train, valid = data.stratified_split(LABELS, train_size=train_size)
    np.testing.assert_array_equal(valid, valid_all)
    assert len(set(train)) == train_size and set(train) <= set(train_all)
    assert np.ptp(np.bincount(LABELS[train], minlength=10)) <= 1


@pytest.mark.parametrize("train_size", [801, 9, -1, 795])
def test_split_impossible_train_size(train_size):
    with pytest.raises(ValueError, match=f"{train_size}"):
        data.stratified_split(LABELS, train_size=train_size)


def test_class_names():
    """They are those that Zalando gave the numbers."""
    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    assert ",".join(data.CLASS_NAMES) == names


def test_real_data_form():
    (x_train, y_train), (x_test, y_test) = data.load_data()
    for x, y, each in ((x_train, y_train, 6000), (x_test, y_test, 1000)):
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((10 * each, 28, 28), np.uint8, (10 * each,), np.uint8)
        assert (x.min(), x.max()) == (0, 255)
        assert np.bincount(y).tolist() == [each] * 10
