import io

import numpy as np
import pytest

from skntk.datasets import load, names


@pytest.fixture
def data_dir(tmp_path, seed):
    """One archive of each layout, and files that are not data sets."""
    rng = np.random.default_rng(seed)
    for folder in ("uci_classification", "uci_regression", "large_regression"):
        (tmp_path / folder).mkdir()
    n = 12
    folds = {f"fold{i}_test": np.arange(3 * i, 3 * i + 3) for i in range(4)}
    folds |= {
        f"fold{i}_train": np.setdiff1d(np.arange(n), folds[f"fold{i}_test"])[1:] for i in range(4)
    }
    np.savez(
        tmp_path / "uci_classification" / "lenses.npz",
        X=rng.normal(size=(n, 4)),
        y=np.arange(n) % 3,
        tune_train=np.arange(6),
        tune_valid=np.arange(6, n),
        **folds,
    )
    np.savez(
        tmp_path / "uci_regression" / "yacht.npz",
        X=rng.normal(size=(n, 2)),
        y=rng.normal(size=n),
        **{f"split{i}_test": np.array([i, 11]) for i in reversed(range(11))},
    )
    np.savez(
        tmp_path / "large_regression" / "bike.npz",
        X=rng.normal(size=(n, 5)).astype(np.float32),
        y=rng.normal(size=n).astype(np.float32),
        test=np.array([1, 4]),
    )
    np.savez(
        tmp_path / "mnist.npz",
        images=rng.integers(256, size=(n, 4, 3), dtype=np.uint8),
        labels=rng.integers(10, size=n, dtype=np.uint8),
    )
    np.savez(
        tmp_path / "cifar.npz",
        train_images=rng.integers(256, size=(8, 4, 2, 3), dtype=np.uint8),
        train_labels=np.arange(8, dtype=np.uint8),
        test_images=rng.integers(256, size=(4, 4, 2, 3), dtype=np.uint8),
        test_labels=np.arange(4, dtype=np.uint8),
    )
    np.savez(tmp_path / "weights.npz", w=np.ones(3))
    (tmp_path / "notes.txt").write_text("not a data set")
    return tmp_path


def test_names(data_dir):
    builtin = names()
    found = names(data_dir=data_dir)
    assert found[: len(builtin)] == builtin
    assert found[len(builtin) :] == (
        "cifar",
        "large_regression/bike",
        "mnist",
        "uci_classification/lenses",
        "uci_regression/yacht",
    )
    assert set(names("regression", data_dir)) - set(builtin) == {
        "large_regression/bike",
        "uci_regression/yacht",
    }
    assert {"cifar", "mnist", "uci_classification/lenses"} < set(names("classification", data_dir))


def test_names_load(data_dir):
    for name in names(data_dir=data_dir):
        data = load(name, data_dir)
        assert data.name == name
        assert name in names(data.task, data_dir)
        assert data.X.dtype == np.float64


def test_folds_and_tuning_split(data_dir):
    data = load("uci_classification/lenses", data_dir)
    with np.load(data_dir / "uci_classification" / "lenses.npz") as raw:
        np.testing.assert_array_equal(data.X, raw["X"])
        np.testing.assert_array_equal(data.y, raw["y"])
        assert len(data.splits) == 4
        for i, (train, test) in enumerate(data.splits):
            np.testing.assert_array_equal(train, raw[f"fold{i}_train"])
            np.testing.assert_array_equal(test, raw[f"fold{i}_test"])
        np.testing.assert_array_equal(data.tuning_split[0], raw["tune_train"])
        np.testing.assert_array_equal(data.tuning_split[1], raw["tune_valid"])
    assert (data.task, data.y.dtype) == ("classification", np.int64)
    assert data.target_names == ("0", "1", "2")


def test_numbered_splits_are_in_order_and_train_on_all_other_rows(data_dir):
    data = load("uci_regression/yacht", data_dir)
    assert [test.tolist() for _, test in data.splits] == [[i, 11] for i in range(11)]
    for train, test in data.splits:
        assert sorted([*train, *test]) == list(range(12))
    assert data.tuning_split is None


def test_single_split_and_float32(data_dir):
    data = load("large_regression/bike", data_dir)
    [(train, test)] = data.splits
    assert test.tolist() == [1, 4]
    assert sorted([*train, *test]) == list(range(12))
    assert data.y.dtype == np.float64


def test_images_become_channels_first_rows(data_dir):
    data = load("cifar", data_dir)
    assert data.image_shape == (3, 4, 2)
    assert data.y.dtype == np.int64
    images = data.X.reshape(-1, *data.image_shape)
    with np.load(data_dir / "cifar.npz") as raw:
        assert images[2, 1, 3, 0] == raw["train_images"][2, 3, 0, 1] / 255
        assert images[9, 2, 0, 1] == raw["test_images"][1, 0, 1, 2] / 255
    [(train, test)] = data.splits
    assert train.tolist() == list(range(8))
    assert test.tolist() == list(range(8, 12))


def test_grey_images_have_one_channel(data_dir):
    data = load("mnist", data_dir)
    assert data.image_shape == (1, 4, 3)
    assert data.splits == ()
    with np.load(data_dir / "mnist.npz") as raw:
        np.testing.assert_array_equal(data.X, raw["images"].reshape(12, -1) / 255)


@pytest.mark.parametrize("name", ["yacht", "yachts", "uci_classification/yacht"])
def test_near_names_suggest_the_full_one(data_dir, name):
    with pytest.raises(ValueError, match=r"Did you mean 'uci_regression/yacht'\?"):
        load(name, data_dir)


def test_missing_directory_says_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pass the one that holds the \.npz archives"):
        load("iris", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        names(data_dir=tmp_path / "nowhere")


def test_names_cannot_leave_the_directory(data_dir):
    inner = data_dir / "uci_regression"
    with pytest.raises(ValueError, match="unknown data set"):
        load("../mnist", inner)


def test_a_name_that_means_two_things_is_refused(tmp_path):
    np.savez(tmp_path / "iris.npz", X=np.eye(2), y=np.arange(2))
    with pytest.raises(ValueError, match="built-in data set and also"):
        load("iris", tmp_path)
    assert load("wine", tmp_path).name == "wine"


def test_python_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "bad.npz", X=np.array([{}, {}], dtype=object), y=np.arange(2))
    with pytest.raises(ValueError, match="never unpickled"):
        load("bad", tmp_path)


def _bytes_of_single_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"not a zip file", b"PK\x03\x04 cut short", _bytes_of_single_array()]
)
def test_broken_archives_are_named(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npz is not an \.npz archive"):
        load("bad", tmp_path)
    assert "bad" not in names(data_dir=tmp_path)


GOOD = {"X": np.eye(4), "y": np.arange(4)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.eye(2)}, "holds the arrays"),
        (GOOD | {"X": np.eye(3)}, "shape"),
        (GOOD | {"X": np.zeros(4)}, "shape"),
        (GOOD | {"X": np.full((4, 2), np.nan)}, "finite"),
        (GOOD | {"test": np.array([4])}, r"rows outside 0\.\.3"),
        (GOOD | {"test": np.array([-1])}, "rows outside"),
        (GOOD | {"test": np.array([0.5])}, "row numbers"),
        (GOOD | {"test": np.array([0]), "train": np.array([0, 1])}, "both of its sides"),
        (GOOD | {"tune_train": np.array([1]), "tune_valid": np.array([1])}, "both of its sides"),
        ({"images": np.zeros((4, 2, 2)), "labels": np.arange(4)}, "uint8"),
        ({"images": np.zeros((4, 2), np.uint8), "labels": np.arange(4)}, "uint8"),
    ],
)
def test_wrong_content_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load("bad", tmp_path)
