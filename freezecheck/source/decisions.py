"""Which way an unknown condition goes, the same way each time on one way through.

A condition is a small formula: True, False, or

    ("is", key)             the value of that key is true
    ("==", key, constant)   ("<", key, number)   ("<=", key, number)
    ("not", c)   ("and", c, ...)   ("or", c, ...)

What was decided restricts what follows: `x == 'a'` rules `x == 'b'` out, and `x < 3`
implies `x < 5`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Formula = Any


def negation(formula: Formula) -> Formula:
    """Its opposite, simplified."""
    if isinstance(formula, bool):
        return not formula
    return formula[1] if formula[0] == "not" else ("not", formula)


def conjunction(parts: list[Formula], kind: str = "and") -> Formula:
    """All of them ("and") or any of them ("or"), simplified."""
    decisive = kind == "or"
    if any(part is decisive for part in parts):
        return decisive
    rest = [part for part in parts if not isinstance(part, bool)]
    if not rest:
        return not decisive
    return rest[0] if len(rest) == 1 else (kind, *rest)


class Decisions:
    """The answers of one way through: those prescribed, then False.

    `taken` are all that were not implied by earlier ones, in order.
    """

    def __init__(self, prescribed: tuple[bool, ...] = ()) -> None:
        self.prescribed = prescribed
        self.taken: list[bool] = []
        self._facts: dict[Any, bool] = {}
        self._equal: dict[str, Any] = {}
        self._bounds: dict[str, tuple[float, bool, float, bool]] = {}

    def decide(self, formula: Formula, chosen: Callable[[Formula, bool], None]) -> bool:
        """Whether it holds on this way; `chosen` is told of each new choice."""
        if isinstance(formula, bool):
            return formula
        kind = formula[0]
        if kind == "not":
            return not self.decide(formula[1], chosen)
        if kind in ("and", "or"):
            decisive = kind == "or"
            for part in formula[1:]:
                if self.decide(part, chosen) is decisive:
                    return decisive
            return not decisive
        implied = self.implied(formula)
        if implied is not None:
            return implied
        place = len(self.taken)
        answer = self.prescribed[place] if place < len(self.prescribed) else False
        self.taken.append(answer)
        self._learn(formula, answer)
        chosen(formula, answer)
        return answer

    def guess(self, formula: Formula) -> bool:
        """What earlier answers say of a condition; False for what they do not tell."""
        if isinstance(formula, bool):
            return formula
        kind = formula[0]
        if kind == "not":
            return not self.guess(formula[1])
        if kind in ("and", "or"):
            return (any if kind == "or" else all)(self.guess(part) for part in formula[1:])
        return bool(self.implied(formula))

    def implied(self, formula: Formula) -> bool | None:
        """What earlier answers say of an atom."""
        if formula in self._facts:
            return self._facts[formula]
        kind, key, *rest = formula
        if kind == "is":
            return None if key not in self._equal else bool(self._equal[key])
        (limit,) = rest
        if key in self._equal:
            value = self._equal[key]
            if kind == "==":
                return value == limit
            if isinstance(value, (int, float)):
                return value < limit if kind == "<" else value <= limit
            return None
        if not isinstance(limit, (int, float)) or key not in self._bounds:
            return None
        low, low_in, high, high_in = self._bounds[key]
        if kind == "==":
            outside = limit < low or limit > high
            edge = (limit == low and not low_in) or (limit == high and not high_in)
            return False if outside or edge else None
        if high < limit or (high == limit and (kind == "<=" or not high_in)):
            return True
        if low > limit or (low == limit and (kind == "<" or not low_in)):
            return False
        return None

    def _learn(self, formula: Formula, answer: bool) -> None:
        self._facts[formula] = answer
        kind, key, *rest = formula
        if kind == "is":
            if not answer:
                return
            self._facts["==", key, None] = False
            return
        (limit,) = rest
        if kind == "==":
            if answer:
                self._equal[key] = limit
            elif limit is None:
                return
            return
        low, low_in, high, high_in = self._bounds.get(
            key, (float("-inf"), False, float("inf"), False)
        )
        if answer:
            high, high_in = limit, kind == "<="
        else:
            low, low_in = limit, kind == "<"
        self._bounds[key] = (low, low_in, high, high_in)
