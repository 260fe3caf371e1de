"""A network written as one function, for tests of what is traced."""

from torch import nn


class Written(nn.Module):
    """A network whose forward pass is `function(module, x)`."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)
