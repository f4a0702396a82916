"""The table of one model: a row per stage, only the columns that say something."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from freezecheck.moves import NO_GRADIENT, NO_OPTIMIZER
from freezecheck.records import dataclass
from freezecheck.report.line import Line, line
from freezecheck.report.stages import REPLACED, Row, collapse, rows
from freezecheck.snapshot import Model, Snapshot, millions

_NARROWEST = (16, 12)  # a stage's label is not cut below this; at the very last
_LAST = "next step moves"
_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_BRIEF = {NO_OPTIMIZER: "no optimizer", REPLACED: "old optimizer"}


@dataclass(slots=True)
class Column:
    """A heading and its cells. `right`: figures; `silent`: cells that say nothing."""

    heading: str
    cells: list[str]
    right: bool = False
    silent: Sequence[str] = ()
    short: str = ""  # the heading where room is scarce

    @property
    def width(self) -> int:
        return max(len(text) for text in (self.heading, *self.cells))

    @property
    def speaks(self) -> bool:
        """Some cell says something."""
        return not all(cell in self.silent for cell in self.cells)


def title(now: Snapshot, index: int, width: int) -> list[Line]:
    """`model (ResNet): 11.2 M parameters, 5.13 k trainable, in train mode`, on two lines
    where it is too long."""
    model = now.models[index]
    params = now.of_model(index)
    total = sum(p.numel for p in params)
    trainable = sum(p.numel for p in params if p.trainable)
    words = "all" if trainable == total else millions(trainable) if trainable else "none"
    mode = "train" if model.training else "eval"
    name = (f"{model.label} ({_kind(model)})", "title")
    sizes = f"{millions(total)} parameters, {words} trainable" if total else "no parameters"
    facts = f"{sizes}, in {mode} mode"
    if len(name[0]) + 2 + len(facts) <= width:
        return [line(name, f": {facts}")]
    return [line(name, ":"), line(f"  {facts}")]


def _kind(model: Model) -> str:
    return " in ".join((model.class_name, *reversed(model.wrappers)))


def table(now: Snapshot, model: int, width: int) -> tuple[list[str], list[Line]]:
    """The headings of a model's table, and its lines, at most `width` columns where possible."""
    shown = collapse(rows(now, model))
    columns = [column for column in _columns(now, shown) if column.speaks]
    gap = fit(columns, width)
    headings = [column.heading for column in columns]
    return headings, [
        line((joined(columns, headings, gap).rstrip(), "quiet")),
        *(_row(columns, number, row, gap) for number, row in enumerate(shown)),
    ]


def _columns(now: Snapshot, shown: list[Row]) -> list[Column]:
    shares = [share(row) for row in shown]
    columns = [
        Column("stage", [label(row) for row in shown]),
        Column("params", [millions(row.parameters) for row in shown], right=True),
        # All alike is in the title already.
        Column("trainable", shares, True, shares if len({*shares}) == 1 else (), "trains"),
        Column("BatchNorm", [_modes(row.batchnorm) for row in shown], silent="-", short="BN"),
        Column("dropout", [_mode(row.dropout) for row in shown], silent="-"),
    ]
    if now.optimizers:
        several = _several(now)
        columns += [
            Column(
                "optimizer" if several else "group",
                [_places(now, row, several) for row in shown],
                silent=() if several or any(_has_groups(now, row) for row in shown) else ("0", "-"),
            ),
            Column("lr", [_figures(row.rates(now)) for row in shown], right=True),
            Column("decay", [_figures(row.decays(now)) for row in shown], True, ("-", "0")),
            Column(_LAST, [movement(now, row) for row in shown]),
        ]
    return columns


def fit(columns: list[Column], width: int) -> int:
    """Make a table fit, by one sacrifice after the other; the gap between its columns."""
    labels = columns[0]
    gap = 2

    def over() -> int:
        return sum(column.width + gap for column in columns) - gap - width

    if over() > 0:
        labels.cells = [re.sub(r"^stem \(.*\)$", "stem", cell) for cell in labels.cells]
    for column in columns:
        if over() > 0 and column.short:
            column.heading = column.short
    if over() > 0:  # one decay for all is said with the optimizer
        columns[:] = [c for c in columns if c.heading != "decay" or len({*c.cells} - {"-"}) > 1]
    for narrowest in _NARROWEST:
        if over() > 0:
            room = max(labels.width - over(), narrowest)
            labels.cells = [_cut(cell, room) for cell in labels.cells]
        if over() > 0:
            gap = 1
    return gap


def _cut(text: str, room: int) -> str:
    """`bert.encoder.layer.0` to `..layer.0`: whole names, if one is left."""
    if len(text) <= room:
        return text
    kind = text[: text.find("(") + 1]
    rest = text[len(text) - room + len(kind) + 2 :]
    return f"{kind}..{re.sub(r'^[^.]*[.](?=[A-Za-z_])', '', rest)}"


def joined(columns: list[Column], cells: list[str], gap: int) -> str:
    """A row."""
    return (" " * gap).join(
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for column, cell in zip(columns, cells)
    )


def _row(columns: list[Column], number: int, row: Row, gap: int) -> Line:
    text = joined(columns, [column.cells[number] for column in columns], gap)
    mark = "" if row.trainable_tensors else "quiet"
    if columns[-1].heading != _LAST:
        return line((text, mark))
    end = len(text) - columns[-1].width
    return line((text[:end], mark), (text[end:].rstrip(), _verdict(row)))


def _verdict(row: Row) -> str:
    """The mark of what moves: trainable and yet not moved, or the reverse, stands out."""
    if row.moving_frozen or row.still.keys() & {NO_OPTIMIZER, REPLACED}:
        return "warning"
    if row.moving == row.tensors:
        return "good"
    return "" if row.trainable_tensors else "quiet"


def label(row: Row) -> str:
    """`stem (conv1, bn1)`, `layer1`, `encoder.layer.0 ... 11`."""
    first, last = row.stages[0].name, row.stages[-1].name
    name = first
    if len(row.stages) > 1:
        a, b = _NUMBERED.match(first), _NUMBERED.match(last)
        name += f" ... {b[2] if a and b and a[1] == b[1] else last}"
    return f"{row.kind} ({name})" if row.kind and row.kind != name else name


def share(row: Row) -> str:
    """How many of the parameters are trainable: `all`, `none`, `62%`."""
    if row.trainable_tensors in (0, row.tensors):
        return "all" if row.trainable_tensors else "none"
    percent = 100 * row.trainable_parameters / max(row.parameters, 1)
    return "<1%" if percent < 1 else ">99%" if percent > 99 else f"{percent:.0f}%"


def _modes(modes: Counter[str]) -> str:
    return " ".join(f"{modes[mode]} {mode}" for mode in ("train", "eval") if modes[mode]) or "-"


def _mode(modes: Counter[str]) -> str:
    """The mode alone where all are in it."""
    present = [mode for mode in ("train", "eval") if modes[mode]]
    return present[0] if len(present) == 1 else _modes(modes)


def _several(now: Snapshot) -> bool:
    """More than one optimizer, not counting replaced ones and those inside another."""
    separate = [i for i, o in enumerate(now.optimizers) if o.part_of is None]
    return len(set(separate) - now.superseded) > 1


def _has_groups(now: Snapshot, row: Row) -> bool:
    return any(len(now.optimizers[i].groups) > 1 for i, _ in row.places)


def _places(now: Snapshot, row: Row, several: bool) -> str:
    """`0`, `0-3`: the groups; where there are several optimizers, `opt_g`, `opt_d 0-1`."""
    words = []
    for index in dict.fromkeys(i for i, _ in row.places):
        optimizer = now.optimizers[index]
        groups = _ranges([j for i, j in row.places if i == index])
        if not several:
            words.append(groups)
        else:
            words.append(optimizer.label + (f" {groups}" if len(optimizer.groups) > 1 else ""))
    return ", ".join(words) or "-"


def _ranges(numbers: list[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 2 and last - first == len(numbers) - 1:
        return f"{first}-{last}"
    return ",".join(map(str, numbers))


def _figures(numbers: list[float]) -> str:
    """`1e-3`, `0, 0.01`, and of more the two ends."""
    words = list(dict.fromkeys(figure(n) for n in numbers))
    return (", ".join(words) if len(words) <= 2 else f"{words[0]}..{words[-1]}") or "-"


def figure(number: float) -> str:
    """A rate as people write it: `0.01`, `1e-3`, `5e-5`, `0.00025`, `0`."""
    plain = f"{number:.3g}"
    mantissa, _, exponent = f"{number:.2e}".partition("e")
    if exponent and number:
        short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return short if len(short) < len(plain) else plain
    return plain


def movement(now: Snapshot, row: Row) -> str:
    """What the next step moves: `all 30`, `28 of 30 (2 frozen)`, `0 of 30: frozen`."""
    if row.moving == row.tensors:
        return f"all {row.tensors}" + (", though frozen" if row.moving_frozen else "")
    if row.unknown and not row.moving:
        return "cannot say"
    if not row.moving and not now.after_backward and row.still[NO_GRADIENT]:
        return "no gradient yet"
    text = f"{row.moving} of {row.tensors}"
    if row.moving_frozen:
        return f"{text}, {row.moving_frozen} though frozen"
    if row.unknown or len(row.still) > 2:
        return text
    reasons = [(_BRIEF.get(why, why), number) for why, number in row.still.items()]
    if row.moving or len(reasons) > 1:
        return f"{text} ({', '.join(f'{number} {why}' for why, number in reasons)})"
    return f"{text}: {reasons[0][0]}"
