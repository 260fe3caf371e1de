import numpy as np
import pytest
from sklearn.datasets import load_digits, load_linnerud

from skntk.datasets import load, names


def test_names():
    classification = ("breast_cancer", "digits", "iris", "wine")
    assert names("classification") == classification
    assert names("regression") == ("diabetes", "linnerud")
    assert set(names()) == {*classification, "diabetes", "linnerud"}


@pytest.mark.parametrize("name", names())
def test_one_face(name):
    data = load(name)
    assert data.name == name
    assert name in names(data.task)
    assert data.X.dtype == np.float64
    assert len(data.X) == len(data.y)
    assert len(data.feature_names) == data.X.shape[1]
    if data.task == "classification":
        assert data.y.dtype == np.int64
        assert np.unique(data.y).tolist() == list(range(len(data.target_names)))
    else:
        assert data.y.dtype == np.float64
    assert data.splits == ()
    assert data.tuning_split is None


def test_digits_are_images():
    digits = load("digits")
    assert digits.image_shape == (1, 8, 8)
    assert (digits.X.min(), digits.X.max()) == (0, 1)
    np.testing.assert_array_equal(digits.X.reshape(-1, 8, 8), load_digits().images / 16)


def test_several_outputs():
    linnerud = load("linnerud")
    assert linnerud.y.shape == (20, 3)
    assert linnerud.target_names == tuple(load_linnerud().target_names)


def test_two_loads_share_nothing():
    first = load("iris")
    first.X[:] = 0
    assert load("iris").X.any()


def test_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"unknown data set 'irsi'\. Did you mean 'iris'") as error:
        load("irsi")
    for name in names():
        assert name in str(error.value)
    assert "data_dir" in str(error.value)


def test_unknown_task():
    with pytest.raises(ValueError, match="task='ranking'"):
        names("ranking")
