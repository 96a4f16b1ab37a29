"""Modules made of modules, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tinyflow.module import Module
from tinyflow.ops.arguments import shown
from tinyflow.tensor import Tensor


class Sequential(Module):
    """Modules run one after the other, named 0, 1, 2 … or by the given names.

    TypeError for what is no module, or under a name that every module has.
    """

    def __init__(self, *modules: Module, **named: Module) -> None:
        given = {str(i): m for i, m in enumerate(modules)} | named
        for name, module in given.items():
            if not isinstance(module, Module):
                where = f"modules[{name}]" if name.isdigit() else name
                raise TypeError(
                    f"Sequential: {where} must be a Module, not {shown(module)}: "
                    "Sequential(first, nn.ReLU()), or Sequential(*layers) of a list"
                )
            if hasattr(Module, name):
                raise TypeError(
                    f"{name!r} is a name that every module has; use another"
                )
            setattr(self, name, module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.children())

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index][1]

    def forward(self, x: Tensor) -> Tensor:
        """Run every child in order."""
        for module in self:
            x = module(x)
        return x


class ModuleList(Module):
    """A list of modules, named 0, 1, 2 …, for a `forward` that runs them itself.

    Raises:
        TypeError: one of them is no module.
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add one at the end."""
        if not isinstance(module, Module):
            raise TypeError(
                f"ModuleList: modules[{len(self)}] must be a Module, not "
                f"{shown(module)}"
            )
        setattr(self, str(len(self)), module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.children())

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index][1]


class Identity(Module):
    """y = x; nothing is recorded."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself."""
        return x
