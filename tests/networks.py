"""Networks whose every parameter has a rule: how they are made, their rows, and their layers."""

import copy

import torch
from explicit import drawn, parameter, rows, tokens
from torch import nn
from torch.nn import functional as F
from written import Written

import skntk.nn as snn

A, L, P = "AffineLayer", "LookupLayer", "PlainLayer"


def seq(*modules):
    return lambda: nn.Sequential(*copy.deepcopy(modules))


def net(function, **members):
    return lambda: Written(function, **copy.deepcopy(members))


def tied(function, first, second):
    """A network with two modules that share their weight."""

    def make():
        made = Written(function, a=copy.deepcopy(first), b=copy.deepcopy(second))
        made.b.weight = made.a.weight
        return made

    return make


def frozen(make, *names):
    """The network with only these parameters free."""

    def made():
        module = make()
        for name, p in module.named_parameters():
            p.requires_grad_(name in names)
        return module

    return made


def images(*modules):
    return seq(*modules, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


def sequences(*modules):
    return seq(*modules, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))


def mlp(activation):
    return seq(nn.Linear(4, 6), activation, nn.Linear(6, 3))


LINEAR = {
    "linear": (seq(nn.Linear(4, 3)), rows(4), {A}),
    "linear, no bias": (seq(nn.Linear(4, 3, bias=False)), rows(4), {A}),
    "mlp": (mlp(nn.Tanh()), rows(4), {A}),
    "linear 3-D": (seq(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), rows(3, 4), {A}),
    "linear 4-D": (seq(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), rows(2, 3, 4), {A}),
    "linear 3-D, no bias": (
        seq(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False)),
        rows(3, 4),
        {A},
    ),
    "linear, one unit": (seq(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 1)), rows(4), {A}),
    "snn.MLP": (lambda: snn.MLP(4, 3, depth=2, width=6), rows(4), {A}),
    "snn.Linear 3-D": (
        seq(snn.Linear(4, 5, weight_std=1.3, bias_std=0.2), snn.Erf(), snn.Linear(5, 2)),
        rows(3, 4),
        {A},
    ),
    "x @ W": (net(lambda m, x: (x @ m.w).tanh() @ m.v, w=parameter(4, 5), v=parameter(5, 3)),
              rows(4), {A}),
    "x @ W 3-D": (net(lambda m, x: (x @ m.w).tanh(), w=parameter(4, 2)), rows(3, 4), {A}),
    "x @ (W / c)": (net(lambda m, x: (x @ (m.w / 3)).tanh(), w=parameter(4, 3)), rows(4), {A}),
    "x @ -(2 W)": (net(lambda m, x: (x @ -(2 * m.w)).tanh(), w=parameter(4, 3)), rows(4), {A}),
    "torch.mm": (net(lambda m, x: torch.mm(x, m.w).tanh(), w=parameter(4, 3)), rows(4), {A}),
    "torch.mm(mat2=)": (
        net(lambda m, x: torch.mm(x, mat2=m.w).tanh(), w=parameter(4, 3)), rows(4), {A}
    ),
    "torch.matmul(other=)": (
        net(lambda m, x: torch.matmul(x, other=m.w).tanh(), w=parameter(4, 3)), rows(4), {A}
    ),
    "F.linear(x, -W)": (
        net(lambda m, x: F.linear(x, -m.w, 0.5 * m.b).tanh(), w=parameter(3, 4), b=parameter(3)),
        rows(4),
        {A},
    ),
    "F.linear(weight=)": (
        net(lambda m, x: F.linear(x, weight=m.w, bias=m.b), w=parameter(3, 4), b=parameter(3)),
        rows(4),
        {A},
    ),
}  # fmt: skip

for kind in ("ntk", "standard", "mup"):
    LINEAR[f"snn.Linear {kind}"] = (
        seq(
            snn.Linear(4, 5, weight_std=1.4, bias_std=0.3, parametrization=kind),
            nn.ReLU(),
            snn.Linear(5, 3, bias=False, parametrization=kind),
        ),
        rows(4),
        {A},
    )
    LINEAR[f"snn.Conv {kind}"] = (
        images(
            snn.Conv2d(2, 4, 3, padding="same", weight_std=1.4, bias_std=0.3, parametrization=kind)
        ),
        rows(2, 5, 4),
        {A},
    )

CONVOLUTIONS = {
    "conv1d": (sequences(nn.Conv1d(2, 4, 3)), rows(2, 7), {A}),
    "conv1d, stride": (sequences(nn.Conv1d(2, 4, 3, stride=2, padding=1)), rows(2, 8), {A}),
    "conv1d, dilation": (sequences(nn.Conv1d(2, 4, 3, dilation=2, bias=False)), rows(2, 8), {A}),
    "conv1d, same": (sequences(nn.Conv1d(2, 4, 4, padding="same")), rows(2, 6), {A}),
    "conv1d, same, dilation": (
        sequences(nn.Conv1d(2, 4, 4, padding="same", dilation=3)), rows(2, 6), {A}
    ),
    "conv1d, circular": (
        sequences(nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular")), rows(2, 6), {A}
    ),
    "conv2d": (images(nn.Conv2d(2, 4, 3)), rows(2, 6, 5), {A}),
    "conv2d, two": (
        images(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2, bias=False)), rows(2, 6, 5), {A}
    ),
    "conv2d, 1 x 1": (images(nn.Conv2d(2, 4, 1, stride=2)), rows(2, 6, 5), {A}),
    "conv2d, stride 3": (images(nn.Conv2d(2, 4, 3, stride=3, padding=2)), rows(2, 6, 7), {A}),
    "conv2d, all unequal": (
        images(nn.Conv2d(2, 4, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2))),
        rows(2, 6, 7),
        {A},
    ),
    "conv2d, same": (images(nn.Conv2d(2, 4, (2, 3), padding="same")), rows(2, 5, 4), {A}),
    "conv2d, same, dilation": (
        images(nn.Conv2d(2, 4, (2, 3), padding="same", dilation=(3, 2))), rows(2, 5, 4), {A}
    ),
    "conv2d, valid": (images(nn.Conv2d(2, 4, 3, padding="valid")), rows(2, 5, 4), {A}),
    "conv2d, circular": (
        images(nn.Conv2d(2, 4, 3, stride=2, padding=(1, 2), padding_mode="circular")),
        rows(2, 5, 4),
        {A},
    ),
    "conv2d, reflect": (
        images(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")), rows(2, 5, 4), {A}
    ),
    "conv2d, the whole image": (images(nn.Conv2d(2, 4, (5, 4))), rows(2, 5, 4), {A}),
    "conv3d": (
        images(nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 1))),
        rows(2, 3, 4, 2),
        {A},
    ),
    "conv3d, same": (
        images(nn.Conv3d(2, 3, 2, padding="same", dilation=2, bias=False)), rows(2, 3, 4, 2), {A}
    ),
    "conv, channels last in memory": (
        net(
            lambda m, x: m.c(x.to(memory_format=torch.channels_last)).relu_().mean((2, 3)),
            c=nn.Conv2d(2, 4, 3),
        ),
        rows(2, 6, 5),
        {A},
    ),
    "conv of scaled weights": (
        net(lambda m, x: F.conv2d(x, m.w / 3, -m.b, 2, 1), w=parameter(3, 2, 3, 3), b=parameter(3)),
        rows(2, 5, 4),
        {A},
    ),
    "snn.Conv1d": (
        sequences(snn.Conv1d(2, 4, 4, padding="same", weight_std=1.4, bias_std=0.3)),
        rows(2, 6),
        {A},
    ),
    "snn.Conv1d, circular": (
        sequences(snn.Conv1d(2, 4, 3, stride=2, padding=1, padding_mode="circular")),
        rows(2, 6),
        {A},
    ),
    "snn.Conv2d": (
        images(snn.Conv2d(2, 4, (2, 3), stride=2, padding=1, weight_std=1.4, bias_std=0.3)),
        rows(2, 6, 5),
        {A},
    ),
    "snn.Conv2d, circular": (
        images(snn.Conv2d(2, 4, 2, padding="same", padding_mode="circular", bias=False)),
        rows(2, 4, 5),
        {A},
    ),
    "snn.ConvNet": (
        lambda: snn.ConvNet(2, 3, depth=2, width=4, norm="group"), rows(2, 4, 4), {A, P}
    ),
}  # fmt: skip

EMBEDDINGS = {
    "embedding": (
        net(lambda m, i: m.l(m.e(i).mean(1).tanh()), e=nn.Embedding(7, 4), l=nn.Linear(4, 3)),
        tokens(7, 5),
        {A, L},
    ),
    "embedding of one token": (
        net(lambda m, i: m.e(i).tanh(), e=nn.Embedding(7, 3)), tokens(7), {L}
    ),
    "embedding, padding_idx": (
        net(lambda m, i: m.e(i).sum(1).tanh(), e=nn.Embedding(4, 3, padding_idx=2)),
        tokens(4, 5),
        {L},
    ),
    "embedding, last is padding": (
        net(lambda m, i: m.e(i).sum(1).tanh(), e=nn.Embedding(4, 3, padding_idx=-1)),
        tokens(4, 5),
        {L},
    ),
    "F.embedding, last is padding": (
        net(
            lambda m, i: F.embedding(i, m.e.weight, padding_idx=-1).sum(1).tanh(),
            e=nn.Embedding(4, 3),
        ),
        tokens(4, 5),
        {L},
    ),
    "embedding, scaled": (
        net(lambda m, i: F.embedding(i, m.e.weight * 0.3).sum(1).tanh(), e=nn.Embedding(4, 3)),
        tokens(4, 5),
        {L},
    ),
    "embedding 2-D": (
        net(lambda m, i: m.e(i).flatten(1, 2).mean(1).tanh(), e=nn.Embedding(7, 3)),
        tokens(7, 2, 3),
        {L},
    ),
    "embedding twice": (
        net(lambda m, i: (m.e(i).tanh() * m.e((i + 1) % 7)).mean(1), e=nn.Embedding(7, 3)),
        tokens(7, 4),
        {L},
    ),
    "linear tied to an embedding": (
        tied(
            lambda m, i: m.b(m.a(i).mean(1).tanh()),
            nn.Embedding(7, 4),
            nn.Linear(4, 7, bias=False),
        ),
        tokens(7, 5),
        {P},
    ),
    "two embeddings and positions": (
        net(
            lambda m, i: m.l((m.e(i) + m.p).tanh().mean(1)),
            e=nn.Embedding(7, 4),
            p=parameter(1, 5, 4),
            l=nn.Linear(4, 3),
        ),
        tokens(7, 5),
        {A, L, P},
    ),
}  # fmt: skip

NORMS = {
    "layer norm": (seq(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh()), rows(4), {A, P}),
    "layer norm 3-D": (seq(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()), rows(3, 4), {A, P}),
    "layer norm over two axes": (seq(nn.LayerNorm((3, 4)), nn.Tanh()), rows(2, 3, 4), {P}),
    "layer norm, no bias": (seq(nn.LayerNorm(4, bias=False), nn.Tanh()), rows(4), {P}),
    "layer norm, no affine": (
        seq(nn.Linear(4, 5), nn.LayerNorm(5, elementwise_affine=False)), rows(4), {A}
    ),
    "layer norm, eps": (seq(nn.LayerNorm(4, eps=0.5), nn.Tanh()), rows(4), {P}),
    "group norm": (
        images(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4, eps=0.1)), rows(2, 4, 3), {A, P}
    ),
    "group norm 2-D": (seq(nn.Linear(4, 6), nn.GroupNorm(3, 6, 0.5), nn.Tanh()), rows(4), {A, P}),
    "rms norm": (seq(nn.Linear(4, 5), nn.RMSNorm(5), nn.Tanh()), rows(3, 4), {A, P}),
    "rms norm, eps": (seq(nn.RMSNorm((3, 4), eps=0.2), nn.Tanh()), rows(3, 4), {P}),
    "batch norm": (seq(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh()), rows(4), {A, P}),
    "batch norm of sequences": (
        sequences(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3, eps=0.1)), rows(2, 5), {A, P}
    ),
    "batch norm of images": (
        images(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)), rows(2, 4, 3), {A, P}
    ),
    "batch norm, no affine": (
        images(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False)), rows(2, 4, 3), {A}
    ),
    "prelu": (seq(nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 2)), rows(4), {A, P}),
    "prelu per channel": (seq(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 2)), rows(4), {A, P}),
    "prelu of images": (images(nn.Conv2d(2, 3, 2), nn.PReLU(3)), rows(2, 4, 3), {A, P}),
    "prelu 3-D": (seq(nn.Linear(4, 5), nn.PReLU(3)), rows(3, 4), {A, P}),
}  # fmt: skip

ELEMENTWISE = {
    "scale * x": (net(lambda m, x: (m.s * x).tanh(), s=parameter()), rows(4), {P}),
    "x * scale": (net(lambda m, x: (x * m.s).tanh(), s=parameter()), rows(3, 4), {P}),
    "x * scale, of one number": (net(lambda m, x: (x * m.s).tanh(), s=parameter(1)), rows(4), {P}),
    "x * (scale / 2)": (net(lambda m, x: (x * (m.s / 2)).tanh(), s=parameter(4)), rows(4), {P}),
    "torch.mul": (net(lambda m, x: torch.mul(m.s, x).tanh(), s=parameter(4)), rows(4), {P}),
    "x + b": (net(lambda m, x: (x + m.b).tanh(), b=parameter(4)), rows(4), {P}),
    "b + x": (net(lambda m, x: (m.b + x).tanh(), b=parameter(4)), rows(3, 4), {P}),
    "x - b": (net(lambda m, x: (x - m.b).tanh(), b=parameter(4)), rows(4), {P}),
    "b - x": (net(lambda m, x: (m.b - x).tanh(), b=parameter(4)), rows(4), {P}),
    "x - 3 b": (net(lambda m, x: torch.sub(x, m.b, alpha=3).tanh(), b=parameter(4)), rows(4), {P}),
    "b + 3 x": (net(lambda m, x: torch.add(m.b, x, alpha=3).tanh(), b=parameter(4)), rows(4), {P}),
    "b - 3 x": (net(lambda m, x: torch.sub(m.b, x, alpha=3).tanh(), b=parameter(4)), rows(4), {P}),
    "x + (-b / 2)": (net(lambda m, x: (x + -m.b / 2).tanh(), b=parameter(4)), rows(4), {P}),
    "x + number": (net(lambda m, x: (x + m.b).tanh(), b=parameter()), rows(4), {P}),
    "b + b + x": (net(lambda m, x: (m.b + (m.b + x)).tanh(), b=parameter(4)), rows(4), {P}),
    "per channel": (
        net(
            lambda m, x: (m.s * x + m.b).tanh(), s=parameter(2, 1, 1), b=parameter(1, 2, 1, 1)
        ),
        rows(2, 3, 3),
        {P},
    ),
    "positions": (
        net(lambda m, x: m.l((x + m.p).tanh()), p=parameter(1, 3, 4), l=nn.Linear(4, 2)),
        rows(3, 4),
        {A, P},
    ),
    "positions without rows": (
        net(lambda m, x: (x + m.p).tanh(), p=parameter(3, 4)), rows(3, 4), {P}
    ),
    "wider than x": (net(lambda m, x: (x[:, :1] * m.s).tanh(), s=parameter(5)), rows(4), {P}),
    "outer product": (
        net(lambda m, x: (x[:, :, None] * m.s).tanh(), s=parameter(4, 3)), rows(4), {P}
    ),
    "outer sum": (
        net(lambda m, x: (x[:, None] + m.b).tanh(), b=parameter(3, 1)), rows(4), {P}
    ),
    "a constant function": (
        net(lambda m, x: m.b * torch.ones_like(x[:, :1]), b=parameter(3)), rows(4), {P}
    ),
}  # fmt: skip


def add_in_place(m, x):
    h = m.l(x)
    h += m.b
    return h.tanh()


def subtract_in_place(m, x):
    h = m.l(x)
    h.sub_(m.b, alpha=2)
    return h.tanh()


def add_in_place_on_a_view(m, x):
    h = m.l(x).view(len(x), 2, 3)
    h += m.b
    return h.tanh_()


def view_and_base(m, x):
    h = m.l(x)
    v = h.view(len(x), 3, 2)
    v += m.b
    return torch.cat([h.tanh(), v.flatten(1).square()], 1)


def activation_on_a_view(m, x):
    h = m.l(x)
    h.view(len(x), 2, -1).tanh_()
    return h.square()


def activation_on_a_slice(m, x):
    h = m.l(x)
    h[:, :2].sigmoid_()
    return h.square()


IN_PLACE = {
    "relu": (mlp(nn.ReLU(inplace=True)), rows(4), {A}),
    "relu 3-D": (mlp(nn.ReLU(inplace=True)), rows(3, 4), {A}),
    "elu 3-D, without bias": (
        seq(nn.Linear(4, 5, bias=False), nn.ELU(inplace=True)), rows(3, 4), {A}
    ),
    "relu after a convolution": (images(nn.Conv2d(2, 3, 2), nn.ReLU(True)), rows(2, 4, 3), {A}),
    "relu after a convolution 1-D": (
        sequences(nn.Conv1d(2, 3, 2), nn.ELU(inplace=True)), rows(2, 5), {A}
    ),
    "relu after a norm": (seq(nn.LayerNorm(4), nn.ELU(inplace=True)), rows(4), {P}),
    "silu after an embedding": (
        net(lambda m, i: F.silu(m.e(i), inplace=True).sum(1), e=nn.Embedding(5, 3)),
        tokens(5, 3),
        {L},
    ),
    "on a view": (net(activation_on_a_view, l=nn.Linear(4, 6)), rows(4), {A}),
    "on a view, 3-D": (net(activation_on_a_view, l=nn.Linear(4, 6)), rows(2, 4), {A}),
    "on a slice": (net(activation_on_a_slice, l=nn.Linear(4, 6)), rows(4), {A}),
    "on a slice, 3-D": (net(activation_on_a_slice, l=nn.Linear(4, 6)), rows(3, 4), {A}),
    "x += b": (net(add_in_place, l=nn.Linear(4, 3), b=parameter(3)), rows(4), {A, P}),
    "x += b 3-D": (net(add_in_place, l=nn.Linear(4, 3), b=parameter(2, 3)), rows(2, 4), {A, P}),
    "x -= 2 b": (net(subtract_in_place, l=nn.Linear(4, 3), b=parameter(3)), rows(4), {A, P}),
    "+= on a view": (
        net(add_in_place_on_a_view, l=nn.Linear(4, 6), b=parameter(3)), rows(4), {A, P}
    ),
    "a view and its base": (net(view_and_base, l=nn.Linear(4, 6), b=parameter(2)), rows(4), {A, P}),
}  # fmt: skip


def residual(m, x):
    h = m.a(x)
    h = h + m.b(h.relu())
    return h + m.b2(torch.erf(m.c(h)))


def other_axis(m, x):
    h = m.a(x).transpose(0, 1)  # (S, n, d)
    h = m.p + m.n(m.b(h).tanh()) * m.s
    return m.c(h.transpose(0, 1)).tanh().mean(1)


def middle_axis(m, x):
    h = x.permute(1, 2, 0, 3)  # (S, T, n, d)
    return m.a(h).tanh().sum((0, 1))


PATHS = {
    "a module called twice": (
        net(lambda m, x: m.l(torch.tanh(m.l(x))), l=nn.Linear(4, 4)), rows(4), {A}
    ),
    "a module called twice, in different sizes": (
        net(lambda m, x: m.l(x).tanh().sum(1) + m.l(x[:, 0]).cos(), l=nn.Linear(4, 3)),
        rows(3, 4),
        {A},
    ),
    "a convolution called twice": (
        net(lambda m, x: m.c(F.avg_pool2d(m.c(x).tanh(), 2)).mean((2, 3)), c=nn.Conv2d(2, 2, 2)),
        rows(2, 6, 6),
        {A},
    ),
    "snn.Linear called twice": (
        net(lambda m, x: m.l(m.l(x).tanh()), l=snn.Linear(4, 4, bias_std=0.3)), rows(4), {A}
    ),
    "weights of two modules": (
        tied(lambda m, x: m.b(m.a(x).tanh()), nn.Linear(4, 4), nn.Linear(4, 4)), rows(4), {P}
    ),
    "weights of two modules without bias": (
        tied(
            lambda m, x: m.b(m.a(x).tanh()), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, False)
        ),
        rows(4),
        {A},
    ),
    "weights of two scales": (
        net(lambda m, x: F.linear(F.linear(x, m.w).tanh(), 2 * m.w), w=parameter(4, 4)),
        rows(4),
        {P},
    ),
    "weights tied in two parametrizations": (
        tied(
            lambda m, x: m.b(m.a(x).tanh()),
            snn.Linear(4, 4, bias=False),
            nn.Linear(4, 4, bias=False),
        ),
        rows(4),
        {A},
    ),
    "residual": (
        net(
            residual,
            a=nn.Linear(4, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 6), b2=nn.Linear(6, 5, False),
        ),
        rows(4),
        {A},
    ),
    "two branches": (
        net(
            lambda m, x: torch.cat([m.a(x) * m.b(x).sigmoid(), m.b(x)], 1),
            a=nn.Linear(4, 3),
            b=nn.Linear(4, 3),
        ),
        rows(4),
        {A},
    ),
    "rows on the second axis": (
        net(
            other_axis,
            a=nn.Linear(4, 5), b=nn.Linear(5, 6), n=nn.LayerNorm(6), c=nn.Linear(6, 2),
            p=parameter(3, 1, 6), s=parameter(6),
        ),
        rows(3, 4),
        {A, P},
    ),
    "rows on the third axis": (net(middle_axis, a=nn.Linear(4, 5)), rows(2, 3, 4), {A}),
    "embedding, rows on the second axis": (
        net(lambda m, i: m.l(m.e(i.T)).tanh().sum(0), e=nn.Embedding(5, 4), l=nn.Linear(4, 3)),
        tokens(5, 3),
        {A, L},
    ),
    "only biases are free": (
        frozen(seq(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), "0.bias", "2.bias"), rows(4), {A}
    ),
    "only weights are free": (
        frozen(seq(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), "0.weight", "2.weight"),
        rows(3, 4),
        {A},
    ),
    "only biases of convolutions are free": (
        frozen(seq(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Conv2d(3, 2, 2)), "0.bias", "2.bias"),
        rows(2, 4, 3),
        {A},
    ),
    "only a norm is free": (
        frozen(seq(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()), "1.weight"), rows(4), {P}
    ),
    "never used": (
        net(lambda m, x: m.a(x).tanh(), a=nn.Linear(4, 3), b=nn.Linear(2, 2), c=parameter(3)),
        rows(4),
        {A, P},
    ),
    "used, but does not reach the output": (
        net(lambda m, x: (m.b(x), m.a(x).tanh())[1], a=nn.Linear(4, 3), b=nn.Linear(4, 2)),
        rows(4),
        {A, P},
    ),
    "used, but detached": (
        net(lambda m, x: m.a(m.b(x).detach()).tanh(), a=nn.Linear(2, 3), b=nn.Linear(4, 2)),
        rows(4),
        {A, P},
    ),
    "a use beside the one that counts": (
        net(lambda m, x: (m.a(x.cos()), m.a(x).tanh())[1], a=nn.Linear(4, 3)), rows(4), {A}
    ),
    "output (n,)": (net(lambda m, x: m.a(x).tanh()[:, 0], a=nn.Linear(4, 1)), rows(4), {A}),
    "output (n, C, H, W)": (seq(nn.Conv2d(2, 3, 2), nn.Tanh()), rows(2, 3, 4), {A}),
    "output is a transpose": (
        net(lambda m, x: m.a(x).tanh().transpose(1, 2), a=nn.Linear(4, 2)), rows(3, 4), {A}
    ),
    "output is a slice": (
        net(lambda m, x: m.a(x)[:, ::2], a=nn.Linear(4, 5)), rows(4), {A}
    ),
    "output is expanded": (
        net(lambda m, x: m.a(x).tanh().expand(-1, 3), a=nn.Linear(4, 1)), rows(4), {A}
    ),
    "non-contiguous rows": (
        seq(nn.Linear(4, 3), nn.Tanh()), lambda n: rows(n)(4).T, {A}
    ),
}  # fmt: skip


CASES = LINEAR | CONVOLUTIONS | EMBEDDINGS | NORMS | ELEMENTWISE | IN_PLACE | PATHS


def made(name, n):
    """The network in float64 with random parameters, n rows, and the types of its layers."""
    make, draw, kinds = CASES[name]
    module, X = make().eval(), draw(n)
    with torch.no_grad():  # lazy modules learn their sizes
        module(X if X.dtype == torch.int64 else X.float())
    return drawn(module), X, kinds
