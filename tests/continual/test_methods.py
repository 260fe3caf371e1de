"""What each method keeps and does, and the outputs of tasks that come."""

import copy

import numpy as np
import pytest
import torch
from explicit import difference, drawn, jacobians
from task_streams import classes, regression
from torch import nn

import skntk.nn as snn
from skntk import ContinualNTK, ContinualNTKRegressor, NetworkRegressor
from skntk.continual.growth import grow_readout
from skntk.continual.heads import Heads
from skntk.continual.penalties import QuadraticPenalty, fisher_information
from skntk.continual.tasks import HeadCrossEntropy, HeadSquaredError, TaskRows

SMALL = {"width": 8, "depth": 1, "max_epochs": 3, "batch_size": 4, "random_state": 0}
PROJECTIONS = ["ogd", "ogd_plus", "pca_ogd"]


def learnt(model, tasks, **first):
    for i, task in enumerate(tasks):
        model.partial_fit(task.X, task.y, task=task.name, **({} if i else first))
    return model


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.module_.parameters()])


@pytest.mark.parametrize("method", [*PROJECTIONS, "replay"])
def test_memory_of_size_zero_is_plain_training(method, seed):
    tasks = classes(seed, shared=True)
    plain = learnt(ContinualNTK("sgd", **SMALL), tasks)
    model = learnt(ContinualNTK(method, memory_size=0, **SMALL), tasks)
    assert torch.equal(weights(model), weights(plain))
    assert model.memory_["rows"] == model.memory_["gradients"] == 0


@pytest.mark.parametrize(("method", "limit"), [("ewc", "penalty"), ("online_ewc", "penalty")])
def test_no_penalty_is_plain_training(method, limit, seed):
    tasks = classes(seed, shared=True)
    plain = learnt(ContinualNTK("sgd", **SMALL), tasks)
    model = learnt(ContinualNTK(method, **{limit: 0.0}, **SMALL), tasks)
    assert torch.equal(weights(model), weights(plain))
    strong = learnt(ContinualNTK(method, **{limit: 1e9}, **SMALL), tasks[:1])
    before = strong.predict_proba(tasks[0].X)
    strong.partial_fit(tasks[1].X, tasks[1].y)
    assert np.abs(strong.predict_proba(tasks[0].X) - before).max() < 1e-3


def test_memory_is_bounded(seed):
    tasks = classes(seed, n_tasks=4, n=12, shared=True)
    for method, rows, gradients in [
        ("ogd", 0, 20), ("ogd_plus", 20, 20), ("pca_ogd", 0, 20), ("replay", 20, 0),
        ("joint", 48, 0), ("sgd", 0, 0),
    ]:  # fmt: skip
        model = learnt(ContinualNTK(method, memory_size=5, **SMALL), tasks)
        assert (model.memory_["rows"], model.memory_["gradients"]) == (rows, gradients), method
    model = ContinualNTK("ewc", **SMALL)
    sizes = {model.partial_fit(task.X, task.y).memory_["bytes"] for task in tasks}
    assert len(sizes) == 1


def test_stored_outputs(seed):
    """A row has one gradient, or one of each output of its task."""
    tasks = classes(seed, n_tasks=2, per_task=3)
    for stored, count in (("label", 7), ("all", 6)):  # two rows of three outputs fit in 7
        model = ContinualNTK("ogd", stored_outputs=stored, memory_size=7, heads="multi", **SMALL)
        assert learnt(model, tasks[:1]).memory_["gradients"] == count


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_fisher_information_is_the_diagonal(kind, likelihood, seed):
    torch.manual_seed(seed)
    if kind == "mlp":
        net, X = snn.MLP(4, 5, width=6), torch.randn(70, 4, dtype=torch.float64)
    else:
        net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.LayerNorm([3, 3, 3]), nn.Flatten(),
                            nn.Linear(27, 5))  # fmt: skip
        X = torch.randn(9, 1, 4, 4, dtype=torch.float64)
    net = drawn(net)
    Y = torch.zeros(len(X), 5, dtype=torch.float64)
    Y[::2, 3:] = torch.nan  # rows of two heads
    Y[1::2, :2] = torch.nan
    found = fisher_information(net, net, TaskRows(X, Y), likelihood, torch.Generator())
    known = ~Y.isnan()
    J = jacobians(net, X)
    if likelihood == "categorical":
        p = net(X).detach().masked_fill(~known, -torch.inf).softmax(1)
        H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    else:
        H = torch.diag_embed(known.double() / known.sum(1, keepdim=True))
    for name, Jn in J.items():
        F = Jn.flatten(2)
        expected = torch.einsum("pnx,npq,qnx->x", F, H, F) / len(X)
        assert difference(found[name].flatten(), expected) < 1e-12


def test_penalty(seed):
    """Zero at the anchor, positive once a parameter that matters has moved; a sum over tasks."""
    torch.manual_seed(seed)
    anchors = [{"w": torch.randn(4, 3).double(), "b": torch.randn(4).double()} for _ in range(3)]
    fisher = [{n: torch.rand_like(w) for n, w in a.items()} for a in anchors]
    fisher[0]["b"][0] = fisher[1]["b"][0] = 0.0
    penalty = QuadraticPenalty.zero(anchors[0])
    penalty.add(fisher[0], anchors[0])
    assert penalty.value(anchors[0]) == 0.0
    free = copy.deepcopy(anchors[0])
    free["b"][0] += 7.0
    assert penalty.value(free) == 0.0
    free["b"][1] += 1e-3
    assert penalty.value(free) > 0.0
    for f, a in zip(fisher[1:], anchors[1:], strict=True):
        penalty.add(f, a)
    w = {n: torch.randn_like(v) for n, v in anchors[0].items()}
    expected = sum(
        0.5 * float((f[n] * (w[n] - a[n]).square()).sum())
        for f, a in zip(fisher, anchors, strict=True)
        for n in w
    )
    assert penalty.value(w) == pytest.approx(expected, rel=1e-12)
    # an implicit step: v - rate * gradient of the penalty at where it ends
    v = {n: value.clone() for n, value in w.items()}
    penalty.step(v, 0.3)
    gradient = {
        n: sum(f[n] * (v[n] - a[n]) for f, a in zip(fisher, anchors, strict=True)) for n in w
    }
    for n in w:
        assert difference(v[n], w[n] - 0.3 * gradient[n]) < 1e-12
    penalty.recentre(w, 0.5)
    assert penalty.value(w) == 0.0
    moved = {n: value + 1 for n, value in w.items()}
    total = sum(float(f[n].sum()) for f in fisher for n in w)
    assert penalty.value(moved) == pytest.approx(0.25 * total, rel=1e-12)


def test_consolidation_holds_the_penalty_of_each_task(seed):
    """The estimator's penalty: zero after the first task, positive when the second is learnt."""
    tasks = classes(seed, n_tasks=2, shared=True)
    model = learnt(ContinualNTK("ewc", penalty=1.0, dtype="float64", **SMALL), tasks[:1])
    penalty = model._learnt.learner.rule.penalty
    assert penalty.value(dict(model.module_.named_parameters())) == 0.0
    model.partial_fit(tasks[1].X, tasks[1].y)
    assert penalty.value(dict(model.module_.named_parameters())) > 0.0


def test_replay_counts_rows_of_the_memory(seed):
    """A batch and as many old rows: the gradient of the mean loss over both."""
    tasks = regression(seed, n_tasks=2, n=6)
    common = {**SMALL, "batch_size": None, "momentum": 0.0, "dtype": "float64", "max_epochs": 1}
    model = ContinualNTKRegressor("replay", learning_rate=0.1, memory_size=None, **common)
    learnt(model, tasks[:1])
    rows = [model._encoded(t.X, t.y, t.name)[:2] for t in tasks]
    module = copy.deepcopy(model.module_)
    X, Y = (torch.cat(parts) for parts in zip(*rows, strict=True))
    loss = HeadSquaredError()(module(X), Y)
    loss.backward()
    model.partial_fit(tasks[1].X, tasks[1].y)
    expected = torch.cat([(p - 0.1 * p.grad).detach().flatten() for p in module.parameters()])
    assert difference(weights(model), expected) < 1e-12


def test_joint_training_starts_anew(seed):
    tasks = regression(seed, n_tasks=2)
    common = {**SMALL, "batch_size": None, "dtype": "float64", "learning_rate": 0.1}
    model = learnt(ContinualNTKRegressor("joint", **common), tasks)
    X, y = (np.concatenate([getattr(t, name) for t in tasks]) for name in ("X", "y"))
    # targets in the units of the first task
    z = (y - tasks[0].y.mean(0)) / tasks[0].y.std(0)
    net = copy.deepcopy(ContinualNTKRegressor("sgd", **{**common, "max_epochs": 0})
                        .fit(tasks[0].X, tasks[0].y).module_)  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        HeadSquaredError()(net(torch.as_tensor(X)), torch.as_tensor(z)).backward()
        optimizer.step()
    expected = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert difference(weights(model), expected) < 1e-12


def test_losses_are_of_the_outputs_that_belong(seed):
    torch.manual_seed(seed)
    outputs = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    Y = torch.full((5, 4), torch.nan, dtype=torch.float64)
    Y[:3, :2] = torch.eye(2, dtype=torch.float64)[[0, 1, 1]]
    Y[3:, 1:] = torch.eye(3, dtype=torch.float64)[[2, 0]]
    found = HeadCrossEntropy()(outputs, Y)
    first = nn.functional.cross_entropy(outputs[:3, :2], torch.tensor([0, 1, 1]))
    second = nn.functional.cross_entropy(outputs[3:, 1:], torch.tensor([2, 0]))
    assert difference(found.detach(), (3 * first + 2 * second).detach() / 5) < 1e-12
    gradient = torch.autograd.grad(found, outputs)[0]
    assert torch.isfinite(gradient).all()
    assert bool((gradient[Y.isnan()] == 0).all())
    squares = HeadSquaredError()(outputs, Y)
    known = ~Y.isnan()
    expected = 0.5 * (outputs[known] - Y[known]).square().mean()
    assert difference(squares.detach(), expected.detach()) < 1e-12


@pytest.mark.parametrize("layer", [nn.Linear(6, 3), snn.Linear(6, 3, bias_std=0.1)])
def test_growing_changes_no_output(layer, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), copy.deepcopy(layer))
    other = copy.deepcopy(net)
    X = torch.randn(3, 4)
    before = net(X)
    names = grow_readout([net, other], X, 2, seed)
    assert names == ["2.weight", "2.bias"]
    assert difference(net(X)[:, :3].detach(), before.detach()) < 1e-6
    assert torch.equal(net(X), other(X))
    assert net(X).shape == (3, 5)


def test_classes_that_come_have_the_size_of_others():
    """New outputs are drawn as the first ones: the same second moment."""
    net = snn.MLP(4, 50, width=400, bias_std=0.0)
    grow_readout([net], torch.zeros(2, 4), 2000, 0)
    weight = list(net)[-1].weight.detach()
    assert float(weight[50:].square().mean()) == pytest.approx(1.0, abs=0.02)


def test_heads():
    single = Heads("single").with_classes("a", np.array([0, 1]), np.array([0, 1, 2]))
    assert single.labels == (0, 1, 2)
    assert single.with_classes("b", np.array([2]), None).columns("b") == [0, 1, 2]
    multi = Heads("multi").with_classes("a", np.array([0, 1]), None)
    multi = multi.with_classes("b", np.array([1, 2, 3]), None)
    assert multi.columns("a") == [0, 1]
    assert multi.columns("b") == [2, 3, 4]
    assert multi.with_classes("a", np.array([1]), None) == multi
    grown = Heads("incremental").with_classes("a", np.array([5, 7]), None)
    grown = grown.with_classes("b", np.array([3, 7]), None)
    assert grown.labels == (5, 7, 3)
    assert grown.columns(None) == grown.columns("a") == [0, 1, 2]
    Y = grown.indicators("b", np.array([3, 7]), torch.float64)
    assert Y.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("heads", ["single", "multi", "incremental"])
@pytest.mark.parametrize("method", ["ogd", "replay", "ewc", "joint"])
def test_labels_come_back(heads, method, seed):
    """Strings as labels, probabilities that sum to one, in the order of the sorted classes."""
    tasks = classes(seed, n=16, n_tasks=2, shared=heads == "single")
    names = np.array(["d", "b", "c", "a"])
    model = ContinualNTK(method, heads=heads, **SMALL | {"max_epochs": 30, "width": 32})
    for task in tasks:
        model.partial_fit(task.X, names[task.y], task=task.name)
    task = tasks[1]
    P = model.predict_proba(task.X, task="t1")
    classes_of = model.classes_of("t1")
    assert list(classes_of) == sorted(classes_of)
    assert np.allclose(P.sum(1), 1)
    assert list(classes_of[P.argmax(1)]) == list(model.predict(task.X, task="t1"))
    assert model.score(task.X, names[task.y], task="t1") > 0.8
    assert set(model.classes_) == set(names[: 2 if heads == "single" else 4])


def test_only_kept_tasks_are_remembered(seed):
    """Sequences of one class each, class-incremental: replay tells them apart, plain does not."""
    tasks = classes(seed, n_tasks=3, n=20, d=8, per_task=1)
    params = {**SMALL, "heads": "incremental", "width": 32, "max_epochs": 20}
    replay = learnt(ContinualNTK("replay", **params), tasks)
    plain = learnt(ContinualNTK("sgd", **params), tasks)

    def scores(m):
        return np.mean([m.score(t.X_test, t.y_test) for t in tasks])

    assert scores(replay) > 0.9
    assert scores(plain) < scores(replay) - 0.2


def test_dropout_is_for_training_alone(seed):
    tasks = classes(seed, n_tasks=2, shared=True)
    model = learnt(ContinualNTK("stable_sgd", learning_rate=0.1, **SMALL), tasks)
    kinds = [type(m).__name__ for m in model.module_]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear"]
    images = ContinualNTK("stable_sgd", **SMALL).fit(tasks[0].X[:, None, None], tasks[0].y)
    assert [type(m).__name__ for m in images.module_] == ["Flatten", *kinds]
    assert model.learning_rates_ == pytest.approx([0.1, 0.08])
    assert np.array_equal(model.predict_proba(tasks[0].X), model.predict_proba(tasks[0].X))


@pytest.mark.parametrize("momentum", [0.5, 0.8])
@pytest.mark.parametrize("regime", ["full", "linearized"])
def test_consolidation_ends_where_the_loss_and_the_penalty_balance(regime, momentum, seed):
    """Whatever the momentum; the anchor is what was trained, in the linearized network too."""
    tasks = regression(seed, n_tasks=2, n=12, d=3, k=1)
    model = ContinualNTKRegressor(
        "ewc", depth=0, regime=regime, penalty=0.5, momentum=momentum, batch_size=None,
        max_epochs=400, dtype="float64", random_state=seed,
    )  # fmt: skip
    learnt(model, tasks[:1])
    rule = model._learnt.learner.rule
    assert difference(torch.cat([c.flatten() for c in rule.penalty.centre.values()]),
                      trained(model)) == 0  # fmt: skip
    model.partial_fit(tasks[1].X, tasks[1].y)
    net = copy.deepcopy(model._learnt.learner._tangent())
    for (_, p), value in zip(net.named_parameters(), split(trained(model), net), strict=True):
        p.data = value
    X, Y = model._encoded(tasks[1].X, tasks[1].y, "t1")[:2]
    HeadSquaredError()(net(X), Y).backward()  # of a linear network, which is its linearization
    for name, p in net.named_parameters():
        pull = 0.5 * rule.penalty.curvature[name] * (p.detach() - rule.penalty.centre[name])
        assert difference(p.grad, -pull) < 1e-3


def trained(model):
    module = model.module_
    module = getattr(module, "module", module)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def split(flat, net):
    sizes = [p.numel() for p in net.parameters()]
    return [v.view(p.shape) for v, p in zip(flat.split(sizes), net.parameters(), strict=True)]


class Odd(nn.Module):
    """A parameter without axes, and an output without the last one."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(())), nn.Linear(5, 1)

    def forward(self, x):
        return (self.scale * self.layer(x)).squeeze(-1)


class Positions(nn.Module):
    """A readout at several positions, whose mean is the output."""

    def __init__(self, k=2):
        super().__init__()
        self.first, self.readout = nn.Linear(1, 10), nn.Linear(10, k)

    def forward(self, x):
        return self.readout(self.first(x[:, :, None]).tanh()).mean(1)


@pytest.mark.parametrize("method", [*PROJECTIONS, "ewc", "replay", "joint", "sgd"])
def test_odd_modules(method, seed):
    params = {**SMALL, "width": None}
    for task in regression(seed, k=1):
        model = ContinualNTKRegressor(method, module=Odd(), **params)
        model.partial_fit(task.X, task.y).partial_fit(task.X[::-1], task.y)
        assert np.isfinite(model.predict(task.X)).all()
    growing = ContinualNTK(method, module=Positions(), heads="incremental", **params)
    for task in learnt(growing, classes(seed, per_task=2)).tasks_:
        assert growing.predict(np.zeros((1, 5)), task=task).shape == (1,)


def test_joint_training_starts_with_the_first_buffers(seed):
    tasks = classes(seed, n_tasks=2, n=8, shared=True)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    model = learnt(ContinualNTK("joint", module=net, **SMALL | {"width": None}), tasks)
    assert int(model.module_[1].num_batches_tracked) == 3 * 4  # of the second training alone


def test_automatic_rate_knows_of_replayed_rows(seed):
    tasks = regression(seed, n_tasks=2)
    model = ContinualNTKRegressor("replay", **SMALL | {"max_epochs": 30})
    model.partial_fit(10 * tasks[0].X, tasks[0].y).partial_fit(tasks[1].X, tasks[1].y)
    assert model.learning_rates_[1] < 10 * model.learning_rates_[0]


class Lazy(nn.Sequential):
    """Weights are drawn when the first rows come."""

    def __init__(self):
        super().__init__(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(2))


@pytest.mark.parametrize("estimator", [ContinualNTKRegressor, NetworkRegressor])
def test_lazy_layers_are_drawn_by_the_seed(estimator, seed):
    (task,) = regression(seed, n_tasks=1)
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model = estimator(module=Lazy, max_epochs=2, random_state=seed).fit(task.X, task.y)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(model.predict(task.X))
    assert np.array_equal(*found)


def test_linearizations_without_forward_mode(seed):
    """Of modules whose derivative takes two reverse passes, centred as others are."""
    norm = torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    net = nn.Sequential(norm, nn.Tanh(), TwoPasses(), nn.Linear(4, 2))
    params = {"module": net, "width": None, "regime": "linearized", "dtype": "float64"}
    for method in ("ewc", "ogd"):
        model = ContinualNTKRegressor(method, centered=True, **SMALL | params)
        for task in regression(seed):
            model.partial_fit(task.X, task.y)
        assert np.isfinite(model.predict(task.X)).all()


class TwoPasses(nn.Module):
    """The identity, by a function that knows no forward mode."""

    def forward(self, x):
        return Identity.apply(x)


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.clone()


def test_names_may_be_tuples(seed):
    from skntk.continual import evaluate, forgetting_report

    tasks = classes(seed, shared=True)
    for i, task in enumerate(tasks):
        task.name = ("turned", i)
    assert list(evaluate(ContinualNTK("sgd", **SMALL), tasks).frame.index) == [
        t.name for t in tasks
    ]
    report = forgetting_report(ContinualNTK("sgd", loss="squared", **SMALL), tasks)
    assert list(report.table.index) == [("turned", 0), ("turned", 1)]


def test_automatic_rate_leaves_room_where_the_kernel_grows(seed):
    """Of ordinary layers that are trained, it is what momentum makes of a step that counts."""
    (task,) = regression(seed, n_tasks=1)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))

    def rate(momentum, **params):
        model = ContinualNTKRegressor("sgd", momentum=momentum, **SMALL | params)
        return model.fit(task.X, task.y).learning_rates_[0]

    for params, share in (
        ({}, 1),
        ({"parametrization": "standard"}, 0.25),
        ({"module": net, "width": None}, 0.25),
        ({"module": net, "width": None, "regime": "linearized"}, 1),
    ):
        assert rate(0.75, **params) == pytest.approx(share * rate(0.0, **params), rel=1e-6)


def test_evaluation_of_untrained_networks(seed):
    """Without training all scores are the baseline's, whatever the seed."""
    from skntk.continual import evaluate

    tasks = classes(seed, shared=True)
    params = {**SMALL, "max_epochs": 0, "random_state": None, "learning_rate": 1.0}
    report = evaluate(ContinualNTK("sgd", **params), tasks)
    assert (report.scores == report.baseline).all()
    assert report.forward_transfer == report.average_forgetting == 0.0
    later = evaluate(ContinualNTK("replay", heads="incremental", **SMALL), classes(seed))
    assert np.isnan(later.forward_transfer)
    assert np.isnan(later.scores[0, 1])
    assert np.isfinite(later.average_forgetting)
