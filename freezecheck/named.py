"""What names stand for in a model of a text."""

from __future__ import annotations

from freezecheck.program import Module, Param


def param_at(module: Module, name: str) -> Param | None:
    """The parameter of that name below a module, or what stands for it and others."""
    parts = name.split(".")
    while parts[0] in module.children:
        module = module.children[parts.pop(0)]
        if not parts:
            return None
    if len(parts) == 1 and parts[0] in module.params:
        return next(iter(module.params[parts[0]].leaves()), None)
    rest = [leaf for each in module.rest for leaf in each.leaves()]
    return rest[0] if len(rest) == 1 else None


def module_at(module: Module, path: str) -> Module:
    """The module at a path below, or the innermost listed one around it."""
    for part in path.split(".") if path else ():
        if part not in module.children:
            break
        module = module.children[part]
    return module
