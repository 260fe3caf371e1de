"""Streams made from one data set."""

from collections import Counter
from itertools import chain, pairwise
from math import cos, floor, radians, sin

import numpy as np
import pytest
from made_tables import (
    assert_same,
    counted,
    counted_training,
    make_dataset,
    make_images,
    make_table,
)
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from skntk.datasets import (
    drifting_tasks,
    load,
    permuted_tasks,
    rotated_tasks,
    split_tasks,
)

MAKERS = {
    "rotated": lambda seed, **more: rotated_tasks(make_images(seed), 3, **more),
    "permuted": lambda seed, **more: permuted_tasks(make_table(seed), 3, **more),
    "split": lambda seed, **more: split_tasks(make_table(seed, n_classes=6), **more),
    "drifting": lambda seed, **more: drifting_tasks(make_table(seed), 3, **more),
}


@pytest.fixture(params=MAKERS)
def make(request):
    """A function that makes a stream from data, and with the random state, of a seed."""

    def make(seed, **more):
        return MAKERS[request.param](seed, **({"random_state": seed} | more))

    return make


# What all streams have in common.


def test_same_seed_same_tasks(make, seed):
    assert_same(make(seed), make(seed))


def test_another_seed_draws_another_split(make, seed):
    assert make(seed)[0].X.tobytes() != make(seed, random_state=seed + 1)[0].X.tobytes()


def test_size_of_the_test_side(make, seed):
    for task in make(seed, test_size=0.5):
        assert len(task.y) == len(task.y_test)


def test_shapes_and_dtypes(make, seed):
    for task in make(seed):
        assert task.X.dtype == task.X_test.dtype == np.float64
        assert task.X.flags.c_contiguous
        # a quarter, rounded up, of what the task has
        assert len(task.y_test) == -(-(len(task.y) + len(task.y_test)) // 4)


def test_inputs_stay_as_they_are(seed):
    images, labels = make_images(seed)
    before = images.copy(), labels.copy()
    images.flags.writeable = labels.flags.writeable = False
    tasks = (
        *rotated_tasks((images, labels), 2, random_state=seed),
        *permuted_tasks((images, labels), 2, random_state=seed),
        *split_tasks((images, labels), random_state=seed),
        *drifting_tasks((images, labels), 2, random_state=seed),
    )
    for task in tasks:
        for array in (task.X, task.X_test):
            array[:] = -1.0  # tasks own what they hold
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize("maker", [permuted_tasks, drifting_tasks])
def test_the_published_split_is_the_default(seed, maker):
    X, y = make_table(seed)
    order = np.random.default_rng(seed).permutation(len(X))
    sides = order[:40], order[40:55]  # five rows are on neither side
    data = make_dataset(X, y, splits=(sides, (order[:1], order[1:2])))
    tasks = maker(data, 2, random_state=seed)
    train, test = (counted(X[side], y[side]) for side in sides)
    if maker is permuted_tasks:
        tasks = tasks[:1]
    assert counted_training(tasks) == train
    assert sum((counted(t.X_test, t.y_test) for t in tasks), Counter()) == test
    drawn = maker(data, 1, test_size=0.5, random_state=seed)
    assert (len(drawn[0].y), len(drawn[0].y_test)) == (30, 30)


def test_splits_keep_the_proportions_of_the_classes(seed):
    X, _ = make_table(seed, n=80)
    y = np.repeat([3, 7], [60, 20])
    [task] = permuted_tasks((X, y), 1, random_state=seed)
    assert np.bincount(task.y)[[3, 7]].tolist() == [45, 15]
    assert np.bincount(task.y_test)[[3, 7]].tolist() == [15, 5]


def test_rare_and_many_classes_are_split_without_their_proportions(seed):
    X, y = make_table(seed, n=20, n_classes=4)
    y[y.argmax()] = 9  # the only one
    [task] = permuted_tasks((X, y), 1, random_state=seed)
    assert (len(task.y), len(task.y_test)) == (15, 5)
    [task] = permuted_tasks((X, np.arange(20) // 2), 1, random_state=seed)  # 10 classes, 5 places
    assert (len(task.y), len(task.y_test)) == (15, 5)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_pairs_of_arrays(seed, dtype):
    X, y = make_table(seed, n_classes=2)
    [task] = permuted_tasks((X.astype(np.float32).tolist(), y.astype(dtype)), 1, random_state=seed)
    assert task.X.dtype == np.float64
    assert task.y.dtype == (np.float64 if dtype is np.float32 else np.int64)
    assert set(task.y.tolist()) == {0, 1}


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("maker", [rotated_tasks, permuted_tasks])
def test_disjoint_tasks_share_the_rows_out(seed, maker, published):
    X, y = make_images(seed, (43, 1, 3, 3))
    order = np.random.default_rng(seed).permutation(43)
    data = make_dataset(
        X.reshape(43, -1), y, ((order[:30], order[30:]),) if published else (), (1, 3, 3)
    )
    # Right angles and permutations keep the values of a row, so that sorted rows tell them apart.
    more = {"angles": (0, 90, 180)} if maker is rotated_tasks else {"n_tasks": 3}
    tasks = maker(data, disjoint=True, random_state=seed, **more)
    pieces = [(task.X, task.y) for task in tasks] + [(t.X_test, t.y_test) for t in tasks]
    dealt = sum((counted(np.sort(Z, axis=1), labels) for Z, labels in pieces), Counter())
    assert dealt == counted(np.sort(data.X, axis=1), data.y)
    for side in ("y", "y_test"):
        sizes = [len(getattr(task, side)) for task in tasks]
        assert max(sizes) - min(sizes) <= 1
        per_class = np.array([np.bincount(getattr(t, side), minlength=4) for t in tasks])
        assert np.ptp(per_class, axis=0).max() <= 1
    assert sum(len(task.y) for task in tasks) == (30 if published else 32)


# Rotated tasks.


def test_right_angles_are_rot90(seed):
    tasks = rotated_tasks(make_images(seed), angles=(0, 90, 180, 270, 360, -90), random_state=seed)
    first = tasks[0]
    for turns, task in zip((0, 1, 2, 3, 4, -1), tasks, strict=True):
        for X, reference in ((task.X, first.X), (task.X_test, first.X_test)):
            images = reference.reshape(-1, 2, 5, 5)
            np.testing.assert_array_equal(
                X.reshape(-1, 2, 5, 5), np.rot90(images, turns, axes=(2, 3))
            )
        np.testing.assert_array_equal(task.y, first.y)
        np.testing.assert_array_equal(task.y_test, first.y_test)


def rotated_by_hand(image, angle):
    """Each pixel looks up, at its place turned back, the mean of its four neighbours."""
    height, width = image.shape
    middle = (height - 1) / 2, (width - 1) / 2
    c, s = cos(radians(angle)), sin(radians(angle))
    result = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            up, right = middle[0] - i, j - middle[1]
            # turned clockwise
            row = middle[0] - (c * up - s * right)
            column = middle[1] + (s * up + c * right)
            if not (0 <= row <= height - 1 and 0 <= column <= width - 1):
                continue
            a, b = min(floor(row), height - 2), min(floor(column), width - 2)
            p, q = row - a, column - b
            result[i, j] = (
                (1 - p) * (1 - q) * image[a, b]
                + (1 - p) * q * image[a, b + 1]
                + p * (1 - q) * image[a + 1, b]
                + p * q * image[a + 1, b + 1]
            )
    return result


@pytest.mark.parametrize("angle", [-200.0, 17.5, 60.0])
def test_bilinear_interpolation(seed, angle):
    images = np.random.default_rng(seed).uniform(size=(4, 5, 6))
    images[0, 0, 0] = 0.0  # so that the range holds the zeros of the corners
    plain, turned = rotated_tasks(
        (images, np.arange(4)), angles=(0, angle), test_size=0.5, random_state=seed
    )
    for X, reference in ((turned.X, plain.X), (turned.X_test, plain.X_test)):
        expected = [rotated_by_hand(image, angle).ravel() for image in reference.reshape(-1, 5, 6)]
        # Four products of values below 1, at places known to a few units in the last digit.
        np.testing.assert_allclose(X, expected, rtol=0, atol=1e-13)


def test_values_stay_in_the_range_of_the_data(seed):
    images, y = make_images(seed)
    for task in rotated_tasks((1 + images, y), random_state=seed):
        for X in (task.X, task.X_test):
            assert (1 + images).min() <= X.min() <= X.max() <= (1 + images).max()


def test_no_turn_changes_no_bit(seed):
    digits = load("digits")
    first = rotated_tasks("digits", 1, random_state=seed)[0]
    whole = counted(first.X, first.y) + counted(first.X_test, first.y_test)
    assert whole == counted(digits.X, digits.y)
    assert first.image_shape == (1, 8, 8)


def test_angles_by_default(seed):
    data = make_images(seed)
    names = [task.name for task in rotated_tasks(data, random_state=seed)]
    assert names == [f"rotated {angle}°" for angle in (0, 36, 72, 108, 144)]
    names = [task.name for task in rotated_tasks(data, 3, step=-22.5, random_state=seed)]
    assert names == ["rotated 0°", "rotated -22.5°", "rotated -45°"]
    assert_same(
        rotated_tasks(data, 3, step=20, random_state=seed),
        rotated_tasks(data, angles=np.array([0, 20, 40]), random_state=seed),
    )


def test_grey_images_have_one_channel(seed):
    images, y = make_images(seed, (12, 5, 4))
    [task] = rotated_tasks((images, y), 1, random_state=seed)
    assert task.image_shape == (1, 5, 4)


# Permuted tasks.


def test_permutations_lead_back_to_the_data(seed):
    X, y = make_table(seed, d=6)
    first, *others = permuted_tasks((X, y), 4, random_state=seed)
    assert counted(first.X, first.y) + counted(first.X_test, first.y_test) == counted(X, y)
    orders = set()
    for task in others:
        # The values of a row are distinct: where they went in one row tells the permutation.
        order = [np.flatnonzero(first.X[0] == value).item() for value in task.X[0]]
        back = np.argsort(order)
        np.testing.assert_array_equal(task.X[:, back], first.X)
        np.testing.assert_array_equal(task.X_test[:, back], first.X_test)
        np.testing.assert_array_equal(task.y, first.y)
        orders.add(tuple(order))
    assert len(orders | {tuple(range(6))}) == 4


def test_few_columns_have_few_permutations(seed):
    data = make_table(seed, d=3)
    tasks = permuted_tasks(data, 6, random_state=seed)
    assert len({task.X.tobytes() for task in tasks}) == 6
    with pytest.raises(ValueError, match="n_tasks=7 is more than 3!"):
        permuted_tasks(data, 7)


# Split tasks.


@pytest.mark.parametrize(("size", "n_groups"), [(1, 5), (2, 3), (3, 2), (5, 1)])
def test_groups_partition_the_classes(seed, size, n_groups):
    X, y = make_table(seed, n=50, n_classes=5)
    y = 10 * y - 3
    tasks = split_tasks((X, y), classes_per_task=size, random_state=seed)
    groups = [np.unique(task.y).tolist() for task in tasks]
    assert groups == [np.unique(task.y_test).tolist() for task in tasks]
    assert list(chain(*groups)) == np.unique(y).tolist()
    assert [len(group) for group in groups[:-1]] == [size] * (n_groups - 1)
    test_rows = sum((counted(t.X_test, t.y_test) for t in tasks), Counter())
    assert counted_training(tasks) + test_rows == counted(X, y)


@pytest.mark.parametrize("dtype", [str, object])
def test_classes_have_names(seed, dtype):
    X, y = make_table(seed, n_classes=4)
    names = np.array(["ape", "bee", "cat", "dormouse"])
    tasks = split_tasks((X, names[y].astype(dtype)), random_state=seed)
    assert [task.name for task in tasks] == ["classes ape, bee", "classes cat, dormouse"]
    for task, other in zip(tasks, split_tasks((X, y), random_state=seed), strict=True):
        np.testing.assert_array_equal(task.X, other.X)
        np.testing.assert_array_equal(task.y, names[other.y])
        np.testing.assert_array_equal(task.y_test, names[other.y_test])


def test_the_first_groups_only(seed):
    data = make_table(seed, n_classes=6)
    every = split_tasks(data, random_state=seed)
    assert [task.name for task in every] == ["classes 0, 1", "classes 2, 3", "classes 4, 5"]
    assert_same(split_tasks(data, 2, random_state=seed), every[:2])


# Drifting tasks.


@pytest.mark.parametrize("by", ["c", 2])
def test_pieces_are_ordered_in_the_column(seed, by):
    X, y = make_table(seed, n=62)
    tasks = drifting_tasks(make_dataset(X, y), 4, by=by, random_state=seed)
    columns = [np.concatenate([task.X[:, 2], task.X_test[:, 2]]) for task in tasks]
    assert sorted(map(len, columns)) == [15, 15, 16, 16]
    for column, next_column in pairwise(columns):
        assert column.max() < next_column.min()
    np.testing.assert_array_equal(np.sort(np.concatenate(columns)), np.sort(X[:, 2]))


@pytest.mark.parametrize(("n", "d"), [(60, 4), (12, 30)])
def test_by_default_the_first_principal_component(seed, n, d):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 1)) @ rng.normal(size=(1, d)) + 0.1 * rng.normal(size=(n, d))
    X = 5 + X * np.geomspace(1e-3, 1e3, d)  # standardized, or else the last column is all
    pieces = drifting_tasks((X, X[:, 0]), 3, random_state=seed)
    pca = PCA(n_components=1, svd_solver="full").fit(StandardScaler().fit_transform(X))
    scores = [
        pca.transform(StandardScaler().fit(X).transform(np.concatenate([t.X, t.X_test])))
        for t in pieces
    ]
    if scores[0].mean() > scores[-1].mean():  # its sign is a matter of convention
        scores = [-s for s in scores]
    # Scores are of order one, and sums of d terms are exact to far more digits than this.
    assert scores[0].max() < scores[1].min() + 1e-9
    assert scores[1].max() < scores[2].min() + 1e-9


def test_ties_stay_in_their_order(seed):
    y = np.arange(90.0)
    X = np.stack([y, y % 2], axis=1)
    for by, table, order in (
        (1, X, np.concatenate([y[::2], y[1::2]])),
        (None, np.full((90, 2), 0.1), y),
    ):
        tasks = drifting_tasks((table, y), 3, by=by, random_state=seed)
        pieces = [np.sort(np.concatenate([task.y, task.y_test])) for task in tasks]
        np.testing.assert_array_equal(pieces, np.sort(order.reshape(3, 30), axis=1))


def test_constant_columns_do_not_order(seed):
    X, y = make_table(seed)
    constant = np.broadcast_to([0.1, 3.0, 0.0], (60, 3))
    plain = drifting_tasks((X, y), 3, random_state=seed)
    more = drifting_tasks((np.hstack([X, constant]), y), 3, random_state=seed)
    for task, other in zip(more, plain, strict=True):
        np.testing.assert_array_equal(task.y, other.y)


def test_equal_rows_tie_in_the_component(seed):
    rng = np.random.default_rng(seed)
    X = np.repeat(rng.normal(size=(3, 7)), 5, axis=0)[rng.permutation(15)]
    pieces = drifting_tasks((X, np.arange(15.0)), 3, random_state=seed)
    for task in pieces:
        assert len(np.unique(np.concatenate([task.X, task.X_test]), axis=0)) == 1


# Refusals.


IMAGES = make_images(0)
TABLE = make_table(0)
LABELLED = make_table(0, n_classes=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rotated_tasks("digit"), "unknown data set 'digit'"),
        (lambda: rotated_tasks("iris"), "'iris' has no image shape"),
        (lambda: rotated_tasks(IMAGES, 2, angles=(0, 1, 2)), "n_tasks=2 disagrees with the 3"),
        (lambda: rotated_tasks(IMAGES, angles=(0, 1), step=1), "pass one"),
        (lambda: rotated_tasks(IMAGES, angles=[]), r"angles=\[\] must be"),
        (lambda: rotated_tasks(IMAGES, angles=30), "angles=30 must be"),
        (lambda: rotated_tasks(IMAGES, angles=(0, np.nan)), "angles=.* finite"),
        (lambda: rotated_tasks(IMAGES, angles="ab"), "angles='ab' must be"),
        (lambda: rotated_tasks(IMAGES, step=np.inf), "step=inf must be"),
        (lambda: rotated_tasks(IMAGES, 11, disjoint=True), "has 30 and 10"),
        (lambda: rotated_tasks(IMAGES, test_size=1.0), r"test_size=1\.0 must be"),
        (lambda: permuted_tasks(TABLE, 0), "n_tasks=0 must be"),
        (lambda: permuted_tasks(TABLE, 2.0), r"n_tasks=2\.0 must be"),
        (lambda: permuted_tasks(TABLE, True), "n_tasks=True must be"),
        (lambda: permuted_tasks(TABLE, test_size=0), "test_size=0 must be"),
        (lambda: permuted_tasks(TABLE[0]), "data is of type ndarray"),
        (lambda: permuted_tasks((TABLE[0], TABLE[1][1:])), "X has shape"),
        (lambda: permuted_tasks((TABLE[1], TABLE[1])), r"X has shape \(60,\)"),
        (lambda: permuted_tasks((TABLE[0][:0], TABLE[1][:0])), "not be empty"),
        (lambda: permuted_tasks(([["a"]], [0])), "X does not hold numbers only"),
        (lambda: permuted_tasks((TABLE[0], TABLE[1].astype(object))), "y has dtype"),
        (lambda: permuted_tasks((TABLE[0], TABLE[1] + 1j)), "y has dtype"),
        (lambda: permuted_tasks((TABLE[0] / 0, TABLE[1])), "must be finite"),
        (lambda: permuted_tasks((np.eye(2), np.eye(2, dtype=int))), "labels of shape"),
        (
            lambda: permuted_tasks((np.eye(1), [0])),
            "n_tasks=5 is more than 1!, the number of orders",
        ),
        (lambda: permuted_tasks((np.eye(1), [0]), 1), "has 1 row in task 'all rows'"),
        (lambda: split_tasks("diabetes"), "'diabetes' is for regression"),
        (lambda: split_tasks(TABLE), "pass integer or string labels"),
        (lambda: split_tasks(LABELLED, classes_per_task=4), "classes_per_task=4 .* 1 to 3"),
        (lambda: split_tasks(LABELLED, classes_per_task=0), "classes_per_task=0"),
        (lambda: split_tasks(LABELLED, classes_per_task=True), "classes_per_task=True"),
        (lambda: split_tasks(LABELLED, 3), "n_tasks=3 is more than the 2 groups"),
        (
            lambda: split_tasks((np.eye(3), [0, 0, 1]), classes_per_task=1),
            "1 row in task 'class 1'",
        ),
        (lambda: drifting_tasks(TABLE, 31), "n_tasks=31 pieces .* enough for 30"),
        (lambda: drifting_tasks(TABLE, by=4), "by=4 names no column"),
        (lambda: drifting_tasks(TABLE, by=-1), "by=-1 names no column"),
        (lambda: drifting_tasks(TABLE, by="age"), "one of the names 'x0', 'x1', 'x2', 'x3'"),
        (lambda: drifting_tasks(TABLE, by=0.0), r"by=0\.0 names no column"),
        (lambda: drifting_tasks(TABLE, -1), "n_tasks=-1 must be"),
    ],
)
def test_refusals(call, message):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()


def test_a_published_split_that_leaves_a_side_empty_is_named():
    X, y = np.arange(8.0)[:, None], np.arange(8) // 2
    data = make_dataset(X, y, splits=((np.arange(6), np.arange(6, 8)),))
    with pytest.raises(ValueError, match=r"2 train and 0 test rows in task 'class 0'"):
        split_tasks(data, classes_per_task=1)
    with pytest.raises(ValueError, match=r"in task 'piece 1 of 2'; pass test_size"):
        drifting_tasks(data, 2, by="a")
    assert len(drifting_tasks(data, 2, by="a", test_size=0.5)) == 2
