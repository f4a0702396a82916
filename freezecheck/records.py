"""`dataclass`, in a form that costs next to nothing to import.

The standard module imports `inspect` and compiles half a dozen functions for each class:
a quarter of the time that `freezecheck lint` may take for a small file. This one knows the
options that we use, and makes the same classes; `dataclasses.fields`, `replace` and the like
work on them. To a type checker it is the standard one.
"""

from __future__ import annotations

from operator import attrgetter

TYPE_CHECKING = False  # `typing`, too, takes its time
if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    _MISSING = object()
    _set = object.__setattr__

    class _Field:
        """What `field(...)` says of an attribute."""

        def __init__(
            self, default=_MISSING, default_factory=_MISSING, init=True, compare=True, repr=True
        ):
            self.default = default
            self.default_factory = default_factory
            self.init = init
            self.compare = compare
            self.repr = repr

    field = _Field

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True):
        """As `dataclasses.dataclass`, for classes without a dataclass among their bases."""

        def decorate(cls):
            return _made(cls, frozen, slots, eq)

        return decorate if cls is None else decorate(cls)

    def replace(record, /, **changes):
        """A copy with other values."""
        own = {name: getattr(record, name) for name, f in type(record)._fields.items() if f.init}
        return type(record)(**{**own, **changes})

    def _made(cls, frozen, slots, eq):
        fields = {}
        for name, annotation in cls.__annotations__.items():
            if not annotation.startswith("ClassVar"):
                default = cls.__dict__.get(name, _MISSING)
                fields[name] = default if isinstance(default, _Field) else _Field(default)
                if fields[name].default is _MISSING and name in cls.__dict__:
                    delattr(cls, name)
                elif isinstance(default, _Field):
                    setattr(cls, name, default.default)
        compared = [name for name, f in fields.items() if f.compare]
        methods = {
            "__init__": _init(fields, frozen),
            "__repr__": _repr,
            "__match_args__": tuple(name for name, f in fields.items() if f.init),
            "__dataclass_fields__": _Fields(),
            "_fields": fields,
        }
        if eq:
            key = attrgetter(*compared) if compared else type
            methods["__eq__"] = _eq(key)
            methods["__hash__"] = (lambda self: hash(key(self))) if frozen else None
        if frozen:
            methods["__setattr__"] = methods["__delattr__"] = _refuse
        if frozen and slots:
            methods["__getstate__"], methods["__setstate__"] = _getstate, _setstate
        methods = {name: m for name, m in methods.items() if name not in cls.__dict__}
        if not slots:
            for name, value in methods.items():
                setattr(cls, name, value)
            return cls
        names = {
            n: v for n, v in cls.__dict__.items() if n not in (*fields, "__dict__", "__weakref__")
        }
        new = type(cls)(
            cls.__name__, cls.__bases__, {**names, **methods, "__slots__": tuple(fields)}
        )
        new.__qualname__ = cls.__qualname__
        return new

    def _init(fields, frozen):
        """The one function that has to be compiled, for its signature."""
        scope = {"_set": _set, "_missing": _MISSING}
        parameters, body = ["self"], []
        for name, f in fields.items():
            value = name
            if f.default is not _MISSING:
                scope[f"_default_{name}"] = f.default
                parameters.append(f"{name}=_default_{name}")
            elif f.default_factory is not _MISSING:
                scope[f"_make_{name}"] = f.default_factory
                parameters.append(f"{name}=_missing")
                value = f"_make_{name}() if {name} is _missing else {name}"
            else:
                parameters.append(name)
            if not f.init:
                parameters.pop()
                value = f"_default_{name}" if f.default is not _MISSING else f"_make_{name}()"
            body.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
        exec(f"def __init__({', '.join(parameters)}):\n" + ("\n".join(body) or " pass"), scope)
        return scope["__init__"]

    def _eq(key):
        def __eq__(self, other):
            return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

        return __eq__

    def _repr(self):
        shown = [f"{n}={getattr(self, n)!r}" for n, f in self._fields.items() if f.repr]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _refuse(self, name, value=None):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to or delete field {name!r}")

    def _getstate(self):
        return [getattr(self, name) for name in self._fields]

    def _setstate(self, state):
        for name, value in zip(self._fields, state):
            _set(self, name, value)

    class _Fields:
        """The fields as the standard module keeps them, made when it asks."""

        def __get__(self, record, cls):
            import dataclasses

            found = {}
            for name, f in cls._fields.items():
                made = dataclasses.field(
                    default=dataclasses.MISSING if f.default is _MISSING else f.default,
                    default_factory=dataclasses.MISSING
                    if f.default_factory is _MISSING
                    else f.default_factory,
                    init=f.init,
                    compare=f.compare,
                    repr=f.repr,
                )
                made.name, made.type = name, cls.__annotations__[name]
                made._field_type = dataclasses._FIELD
                found[name] = made
            return found


__all__ = ["dataclass", "field", "replace"]
