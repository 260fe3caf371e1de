"""What the readings are compared by: scores of rows, their errors, and whether there is a limit."""

import numpy as np
import pytest
import torch
from torch import nn

import skntk.nn as snn
from skntk import NetworkRegressor
from skntk.diagnostics.laws import estimate
from skntk.diagnostics.measures import analytic_limit
from skntk.diagnostics.readings import mean_error, row_shares


def test_scores_of_several_targets_are_means_of_theirs(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 3))
    Y = np.stack([X[:, 0], 100 * rng.standard_normal(40), X[:, 1] ** 2], 1)
    net = NetworkRegressor(depth=1, width=16, max_epochs=20, random_state=seed).fit(X, Y)
    shares = row_shares(net, net._forward(X), Y)
    assert shares.mean() == pytest.approx(net.score(X, Y), abs=1e-6)


def test_intervals_of_accuracies_cover(seed):
    """Two classifiers that differ on a tenth of the rows, by chance alone.

    Each run has its own split of the same rows; over 3000 studies the interval, which knows of
    the overlap and of what the test rows let expect, leaves out the truth in 5 % of them at most.
    """
    rng = np.random.default_rng(seed)
    n, test, runs, missed = 120, 30, 5, 0
    for _ in range(3000):
        rows = rng.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.9, 0.05])
        shares = [rows[rng.permutation(n)[:test]] for _ in range(runs)]
        found = estimate(
            [s.mean() for s in shares],
            test / (n - test),
            [mean_error(s, discrete=True) for s in shares],
        )
        missed += not found.low <= 0 <= found.high
    assert missed / 3000 < 0.06


def test_accuracies_on_few_rows_decide_nothing():
    """Readings that agree on all rows: five runs are told from 0.02 from 360 rows on."""

    def reach(rows):
        test = rows // 4
        own = [mean_error(np.zeros(test), discrete=True)] * 5
        return estimate(np.zeros(5), test / (rows - test), own).high

    assert reach(360) < 0.02 < reach(340)


def drawn_otherwise(width):
    net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))
    for layer in (net[0], net[2]):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return net


@pytest.mark.parametrize("width", [64, 1024])
def test_the_limit_is_that_of_weights_as_layers_draw_them(width, seed):
    x = torch.zeros(1, 3)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        assert analytic_limit(drawn_otherwise(width), x, 1) is None
        for _ in range(20):
            usual = [nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))]
            usual += [
                snn.MLP(3, 1, width=width, parametrization=kind, bias_std=bias)
                for kind in ("ntk", "standard")
                for bias in (0.0, 0.3)
            ]
            for net in usual:
                assert analytic_limit(net, x, 1) is not None
