"""Arrays in, tensors inside, arrays of the caller's kind out."""

import numpy as np
import pandas as pd
import pytest
import torch

from skntk.core import as_tensor, like_input, resolve_dtype


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("float32", torch.float32),
        ("float64", torch.float64),
        (np.float32, torch.float32),
        (np.dtype("f8"), torch.float64),
        (torch.float64, torch.float64),
        (float, torch.float64),
    ],
)
def test_resolve_dtype(given, expected):
    assert resolve_dtype(given) is expected


@pytest.mark.parametrize("wrong", ["int32", "half", torch.float16, "nothing", object()])
def test_unknown_dtypes(wrong):
    with pytest.raises(ValueError, match="is not supported; pass 'float32' or 'float64'"):
        resolve_dtype(wrong)


def test_memory_is_shared_where_nothing_is_converted():
    for array in (np.ones((3, 2)), np.ones((3, 2), np.float32)):
        tensor = as_tensor(array)
        array[0, 0] = 7
        assert tensor[0, 0] == 7
    tensor = torch.ones(2)
    assert as_tensor(tensor) is tensor


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(3, 2),
        np.ones((3, 2), dtype=">f8"),
        np.ones((3, 2), dtype=np.longdouble),
        np.ones((3, 2), dtype=np.float16),
        np.ones((3, 2), dtype=bool),
        np.ones((6, 2))[::-2],
        np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1, 2]}),
        [[1, 2], [3, 4], [5, 6]],
        torch.ones((3, 2), dtype=torch.bfloat16),
    ],
)
def test_everything_else_becomes_float64(array):
    tensor = as_tensor(array)
    assert tensor.dtype == torch.float64
    expected = array.double() if isinstance(array, torch.Tensor) else np.asarray(array, dtype=float)
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_read_only_arrays_are_copied():
    array = np.ones((2, 2))
    array.setflags(write=False)
    as_tensor(array)[0, 0] = 5
    assert array[0, 0] == 1


def test_dtype_that_is_asked_for():
    assert as_tensor(np.ones(2), dtype="float32").dtype == torch.float32
    assert as_tensor(torch.ones(2), dtype=np.float64).dtype == torch.float64


def test_gradients_pass():
    tensor = torch.ones(2, requires_grad=True)
    assert as_tensor(tensor, dtype="float64").requires_grad


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([[1, np.nan]], ValueError, "^y contains NaN or infinity"),
        (np.float64(1), ValueError, "^y is a single number"),
        ([1j], ValueError, "^y is complex"),
        (["a"], ValueError, "^y is of dtype <U1"),
        ([None], ValueError, "^y is of dtype object"),
        (torch.eye(2).to_sparse(), TypeError, "^y is a sparse tensor"),
    ],
)
def test_errors_name_the_argument(wrong, error, message):
    with pytest.raises(error, match=message):
        as_tensor(wrong, name="y")


def test_like_input():
    result = torch.ones(2, requires_grad=True)
    assert like_input(result, torch.zeros(1)) is result
    assert isinstance(like_input(result, [0]), np.ndarray)
