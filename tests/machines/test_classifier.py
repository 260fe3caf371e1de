"""The classifier: leave-one-out, calibration, odd sets of classes, subsets."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from skntk import NTKClassifier, NTKRegressor
from skntk.machines import classifier
from skntk.machines.averaging import margin_average, ridge_average
from skntk.machines.tuning import mean_diagonal
from skntk.solvers import Spectral, squared_hinge


def blobs(seed, classes, each, d=3):
    rng = np.random.default_rng(seed)
    centres = 6 * (np.eye(d)[:classes] if classes <= d else rng.standard_normal((classes, d)))
    X = np.concatenate([c + rng.standard_normal((each, d)) for c in centres])
    return X, np.repeat(np.arange(classes), each)


def check_probabilities(model, X, classes):
    proba = model.predict_proba(X)
    assert proba.shape == (len(X), classes)
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[proba.argmax(1)])
    return proba


@pytest.mark.parametrize("size", [0.0, 0.5])
@pytest.mark.parametrize("classes", [2, 3])
def test_ridge_leave_one_out_against_refits(classes, size, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((15, 2))
    w = torch.tensor(rng.uniform(0.5, 2, 15))
    K = torch.exp(-torch.cdist(torch.tensor(X), torch.tensor(X)))
    Y = torch.eye(classes, dtype=torch.float64)[rng.permutation(15) % classes]
    ridge = torch.tensor([[0.3]], dtype=torch.float64)
    start = torch.tensor(size * rng.standard_normal(Y.shape))
    made = ridge_average([Spectral.from_gram(K, w)], ridge, Y, w, w, [start])
    Z = Y - start
    for i in range(15):
        rest = torch.arange(15) != i
        mean = (w[rest, None] * Z[rest]).sum(0) / w[rest].sum()
        C = K[rest][:, rest] + torch.diag(0.3 / w[rest])
        value = start[i] + mean + K[i, rest] @ torch.linalg.solve(C, Z[rest] - mean)
        torch.testing.assert_close(made.left_out[i], value, rtol=1e-9, atol=1e-10)
    mean = (w[:, None] * Z).sum(0) / w.sum()
    dual = torch.linalg.solve(K + torch.diag(0.3 / w), Z - mean)
    torch.testing.assert_close(made.dual[0], dual, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(made.constant, mean)
    assert made.shares == [1.0]


@pytest.mark.parametrize("size", [0.0, 0.5])
@pytest.mark.parametrize("classes", [2, 3])
def test_margin_machines_one_against_rest(classes, size, seed):
    rng = np.random.default_rng(seed)
    X = torch.tensor(rng.standard_normal((20, 2)))
    K, w = torch.exp(-torch.cdist(X, X)), torch.tensor(rng.uniform(0.5, 2, 20))
    Y = torch.eye(classes, dtype=torch.float64)[rng.permutation(20) % classes]
    ridge = torch.tensor([[0.3]], dtype=torch.float64)
    first = torch.tensor(size * rng.standard_normal(Y.shape))
    ridge_machines = ridge_average([Spectral.from_gram(K, w)], ridge, Y, w, w, [first])
    made = margin_average([K], ridge, Y, w, w, [first], ridge_machines)
    unit = mean_diagonal(K.diagonal(), w)
    for c in range(classes):
        other = first[:, 1 - c] if classes == 2 else -first[:, c]
        offset = first[:, c] - other
        alone = squared_hinge(K + unit, 2 * Y[:, c] - 1, 0.3 / w, offset=offset)
        scores = offset / 2 + K @ made.dual[0][:, c] + made.constant[c]
        torch.testing.assert_close(scores, 0.5 + 0.5 * (offset + (K + unit) @ alone.dual))
        torch.testing.assert_close(made.left_out[:, c], 0.5 + 0.5 * alone.leave_one_out)


def test_probabilities_of_a_known_posterior(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 400)
    X = (2 * y - 1 + rng.standard_normal(400))[:, None]  # P(1 | x) = sigmoid(2 x)
    T = np.linspace(-2, 2, 41)[:, None]
    truth = 1 / (1 + np.exp(-2 * T[:, 0]))
    proba = check_probabilities(NTKClassifier().fit(X, y), T, 2)[:, 1]
    assert np.abs(proba - truth).mean() < 0.08
    unknown = rng.integers(0, 2, 400)  # nothing to learn
    proba = NTKClassifier().fit(X, unknown).predict_proba(T)[:, 1]
    assert np.abs(proba - 0.5).mean() < 0.12


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_iris(tuning, seed):
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(seed).permutation(150)
    X, y = StandardScaler().fit_transform(X)[order], y[order]
    model = NTKClassifier(tuning=tuning).fit(X[:100], y[:100])
    assert model.score(X[100:], y[100:]) >= 0.86
    assert log_loss(y[100:], model.predict_proba(X[100:])) < 0.4


def test_labels_of_any_kind(seed):
    X, y = blobs(seed, 2, 20)
    plain = NTKClassifier(depth=1).fit(X, y)
    for names in (np.array(["no", "yes"]), np.array([True, False]), np.array([7, -3])):
        model = NTKClassifier(depth=1).fit(X, names[y])
        np.testing.assert_array_equal(model.classes_, np.unique(names))
        columns = np.argsort(names)  # of the plain model, in the order of these classes
        np.testing.assert_allclose(
            model.predict_proba(X), plain.predict_proba(X)[:, columns], atol=1e-6
        )
        assert model.score(X, names[y]) > 0.9


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_one_class_is_predicted_with_certainty(tuning):
    X = np.arange(6.0).reshape(3, 2)
    for n in (1, 2, 3):
        model = NTKClassifier(tuning=tuning).fit(X[:n], ["only"] * n)
        np.testing.assert_array_equal(check_probabilities(model, X, 1), np.ones((3, 1)))
        assert list(model.predict(X)) == ["only"] * 3


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_as_few_rows_as_classes(tuning):
    X = np.array([[0.0, 1.0], [3.0, -1.0], [-4.0, 2.0]])
    for n in (2, 3):
        model = NTKClassifier(tuning=tuning).fit(X[:n], np.arange(n))
        check_probabilities(model, X, n)
        assert list(model.predict(X[:n])) == list(range(n))


def test_a_class_with_one_row(seed):
    X, y = blobs(seed, 2, 20)
    X = np.vstack([X, [[30.0, 30.0, 30.0]]])
    model = NTKClassifier().fit(X, np.append(y, 2))
    check_probabilities(model, X, 3)
    assert model.score(X[:40], y) > 0.9


def test_a_hundred_classes_with_few_rows_each(seed):
    X, y = blobs(seed, 100, 3, d=8)
    model = NTKClassifier(depth=1).fit(X, y)
    check_probabilities(model, X, 100)
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_a_subset_to_tune_on_keeps_every_class(tuning, seed, monkeypatch):
    X, y = blobs(seed, 3, 60)
    X, y = np.vstack([X, X[:1] + 20]), np.append(y, 9)  # and a class with one row
    full = NTKClassifier(depth=1, tuning=tuning).fit(X, y)
    monkeypatch.setattr(classifier, "ROWS", 40)
    model = NTKClassifier(depth=1, tuning=tuning, random_state=seed).fit(X, y)
    assert list(model.classes_) == [0, 1, 2, 9]
    assert len(model.X_fit_) == 181
    check_probabilities(model, X, 4)
    assert model.score(X, y) > full.score(X, y) - 0.05
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_order_of_rows_and_names_of_classes_change_nothing(seed):
    X, y = blobs(seed, 3, 15)
    order = np.random.default_rng(seed).permutation(45)
    one, two = NTKClassifier().fit(X, y), NTKClassifier().fit(X[order], y[order])
    np.testing.assert_allclose(one.predict_proba(X), two.predict_proba(X), atol=1e-6)
    renamed = NTKClassifier().fit(X, np.array([2, 0, 1])[y])
    np.testing.assert_allclose(
        renamed.predict_proba(X)[:, [2, 0, 1]], one.predict_proba(X), atol=1e-6
    )


def test_blocks_of_test_rows_change_nothing(seed, monkeypatch):
    X, y = blobs(seed, 3, 10)
    model = NTKClassifier(depth=1).fit(X, y)
    whole = model.predict_proba(X)
    monkeypatch.setattr(
        NTKClassifier, "_blocks", lambda *_: (slice(a, a + 7) for a in range(0, 30, 7))
    )
    np.testing.assert_allclose(model.predict_proba(X), whole, rtol=1e-9)


def test_choices_say_what_is_in_use(seed):
    X, y = blobs(seed, 2, 15)
    model = NTKClassifier(param_grid={"depth": [1, 2], "alpha": [0.01, 0.1]}).fit(X, y)
    assert {c.depth for c in model.tuning_results_["choice"]} == {1, 2}
    assert set(map(id, model.choices_)) <= set(map(id, model.tuning_results_["choice"]))
    assert len(model.choices_) >= 1
    assert len(model.tuning_results_["score"]) == len(model.tuning_results_["choice"])


def test_regressor_on_labels_agrees_on_easy_data(seed):
    X, y = blobs(seed, 2, 25)
    X += 10 * y[:, None]
    labels = NTKRegressor(tuning=None).fit(X, 2.0 * y - 1).predict(X) > 0
    np.testing.assert_array_equal(NTKClassifier(tuning=None).fit(X, y).predict(X), labels)


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood"])
def test_rows_entered_twice_change_nothing(tuning, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 2))
    y = (X[:, 0] + rng.standard_normal(40) > 0).astype(int)
    T = rng.standard_normal((20, 2))
    model = NTKClassifier(depth=1, bias_std=0.1, embedding="none", tuning=tuning)
    once = model.fit(X, y).predict_proba(T)
    twice = model.fit(X.repeat(2, 0), y.repeat(2)).predict_proba(T)
    assert len(model.X_fit_) == 40
    np.testing.assert_allclose(twice, once, rtol=1e-7)


def test_copies_that_disagree_are_kept(seed):
    """A row seen with both labels is evidence of how sure predictions can be."""
    others = np.random.default_rng(seed).uniform(3, 5, 40)
    X = np.r_[np.zeros(40), others, others][:, None]
    y = np.r_[np.arange(40) % 4 == 0, np.zeros(80)].astype(int)
    model = NTKClassifier().fit(X, y)
    assert len(model.X_fit_) == 80
    assert 0.1 < model.predict_proba([[0.0]])[0, 1] < 0.4


def test_codes_without_noise_are_known(seed):
    """Ten codes, each seen many times with the same label that no other code tells of."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 10, (300, 1)) * 1.0
    y = np.isin(codes[:, 0], [1, 4, 8]).astype(int)
    model = NTKClassifier().fit(codes[:200], y[:200])
    assert model.score(codes[200:], y[200:]) == 1.0
    assert model.predict_proba(codes[200:]).max(1).min() > 0.9
    wrong = rng.random(300) < 0.2
    noisy = NTKClassifier().fit(codes[:200], np.where(wrong, 1 - y, y)[:200])
    assert noisy.score(codes[200:], y[200:]) == 1.0
    assert 0.6 < noisy.predict_proba(codes[200:]).max(1).mean() < 0.9


def test_labels_of_copies_are_recalled_as_far_as_copies_agree(seed):
    """Labels without any pattern: unknown at new rows, known at the old ones."""
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((60, 4)), rng.integers(0, 2, 60)
    model = NTKClassifier().fit(X.repeat(2, 0), y.repeat(2))
    assert model.score(X, y) == 1.0
    assert model.predict_proba(X).max(1).min() > 0.85
    assert model.score(X.astype(np.float32), y) == 1.0
    assert model.predict_proba(rng.standard_normal((50, 4))).max(1).mean() < 0.75
    disagree = NTKClassifier().fit(X.repeat(2, 0), np.c_[y, 1 - y].ravel())
    assert disagree.predict_proba(X).max(1).max() < 0.7
