"""Elementwise functions that torch lacks as modules, and the table of activation names."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn


class Erf(nn.Module):
    r"""Error function, elementwise: :math:`a\,\mathrm{erf}(b x) + c`.

    Parameters
    ----------
    a, b, c : float, default=1.0, 1.0, 0.0
        Scale of the output, of the input, and offset.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Erf()(torch.zeros(1))
    tensor([0.])
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.c = float(a), float(b), float(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return self.a * torch.erf(self.b * x) + self.c


class Sin(nn.Module):
    r"""Sine, elementwise: :math:`a \sin(b x + c)`.

    Parameters
    ----------
    a, b, c : float, default=1.0, 1.0, 0.0
        Amplitude, angular frequency, phase in radians.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Sin()(torch.zeros(1))
    tensor([0.])
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.c = float(a), float(b), float(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return self.a * torch.sin(self.b * x + self.c)


class Cos(Sin):
    r"""Cosine, elementwise: :math:`a \cos(b x + c)`.

    Parameters
    ----------
    a, b, c : float, default=1.0, 1.0, 0.0
        Amplitude, angular frequency, phase in radians.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Cos()(torch.zeros(1))
    tensor([1.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return self.a * torch.cos(self.b * x + self.c)


class Exp(nn.Module):
    r"""Exponential, elementwise: :math:`a \exp(b x)`.

    Parameters
    ----------
    a, b : float, default=1.0
        Scale of the output and of the exponent.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Exp()(torch.zeros(1))
    tensor([1.])
    """

    def __init__(self, a: float = 1.0, b: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = float(a), float(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return self.a * torch.exp(self.b * x)


class Gaussian(nn.Module):
    r"""Gaussian bump, elementwise: :math:`a \exp(b x^2)` with :math:`b \le 0`.

    Parameters
    ----------
    a, b : float, default=1.0, -1.0
        Height, and the coefficient of the square; ``b`` must not be positive.

    Raises
    ------
    ValueError
        If ``b`` is positive.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Gaussian()(torch.zeros(1))
    tensor([1.])
    """

    def __init__(self, a: float = 1.0, b: float = -1.0) -> None:
        super().__init__()
        if b > 0:
            raise ValueError(f"b={b!r} must be at most 0: exp(b x^2) has no second moment for b>0.")
        self.a, self.b = float(a), float(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return self.a * torch.exp(self.b * x.square())


class ABReLU(nn.Module):
    r"""Two-slope rectifier, elementwise: :math:`a \min(x, 0) + b \max(x, 0)`.

    Parameters
    ----------
    a, b : float, default=0.0, 1.0
        Slope left and right of zero.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.ABReLU(0.5, 2.0)(torch.tensor([-1.0, 1.0]))
    tensor([-0.5000,  2.0000])
    """

    def __init__(self, a: float = 0.0, b: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = float(a), float(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return self.a * x.clamp(max=0) + self.b * x.clamp(min=0)


class Abs(nn.Module):
    """Absolute value, elementwise.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Abs()(torch.tensor([-1.0]))
    tensor([1.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return x.abs()


class Sign(nn.Module):
    """Sign, elementwise. Its derivative is taken as zero, so its NTK is that of the readout alone.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Sign()(torch.tensor([-2.0]))
    tensor([-1.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise."""
        return torch.sign(x)


class Polynomial(nn.Module):
    r"""Polynomial, elementwise: :math:`\sum_k \mathrm{coef}_k x^k`.

    Parameters
    ----------
    coef : sequence of float
        Coefficients in ascending powers, at least one.

    Raises
    ------
    ValueError
        If `coef` is empty.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Polynomial([1.0, 0.0, 2.0])(torch.tensor([3.0]))
    tensor([19.])
    """

    def __init__(self, coef: Sequence[float]) -> None:
        super().__init__()
        self.coef = tuple(float(c) for c in coef)
        if not self.coef:
            raise ValueError("coef=[] must hold at least one coefficient.")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function elementwise, by Horner's rule."""
        out = torch.full_like(x, self.coef[-1])
        for c in reversed(self.coef[:-1]):
            out = out * x + c
        return out


class Hermite(Polynomial):
    r"""Normalized probabilists' Hermite polynomial, elementwise: :math:`He_n(x) / \sqrt{n!}`.

    Parameters
    ----------
    degree : int
        The degree :math:`n`, at least 0.

    Raises
    ------
    ValueError
        If `degree` is negative.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> snn.Hermite(1)(torch.tensor([3.0]))
    tensor([3.])
    """

    def __init__(self, degree: int) -> None:
        if degree < 0:
            raise ValueError(f"degree={degree!r} must be at least 0.")
        previous, current = [0.0], [1.0]
        for n in range(degree):  # He_{n+1} = x He_n - n He_{n-1}
            shifted = [0.0, *current]
            padded = [*previous, *[0.0] * (len(shifted) - len(previous))]
            following = [s - n * p for s, p in zip(shifted, padded, strict=True)]
            previous, current = current, following
        super().__init__([c / math.sqrt(math.factorial(degree)) for c in current])
        self.degree = int(degree)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "abs": Abs,
    "erf": Erf,
    "gelu": nn.GELU,
    "sin": Sin,
    "cos": Cos,
    "gaussian": Gaussian,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "sign": Sign,
    "identity": nn.Identity,
}


def activation_names() -> tuple[str, ...]:
    """Return the names that `activation` and every estimator's ``activation=`` take.

    Examples
    --------
    >>> import skntk.nn as snn
    >>> "relu" in snn.activation_names()
    True
    """
    return tuple(_ACTIVATIONS)


def activation(spec: str | nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """Return an elementwise module for a name, a module class, or a module.

    Parameters
    ----------
    spec : str, torch.nn.Module class or instance
        A name of `activation_names`, a class to be called without arguments, or the module itself.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For anything else that is no module.

    Examples
    --------
    >>> import skntk.nn as snn
    >>> snn.activation("relu")
    ReLU()
    """
    if isinstance(spec, str):
        if spec not in _ACTIVATIONS:
            raise ValueError(
                f"activation={spec!r} is unknown; pass one of {sorted(_ACTIVATIONS)} "
                "or an elementwise torch.nn.Module."
            )
        return _ACTIVATIONS[spec]()
    if isinstance(spec, nn.Module):
        return spec
    if isinstance(spec, type) and issubclass(spec, nn.Module):
        return spec()
    raise TypeError(
        f"activation={spec!r} must be a name of skntk.nn.activation_names() or an elementwise "
        "torch.nn.Module."
    )
