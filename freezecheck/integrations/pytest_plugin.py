"""pytest: the fixture `assert_sane`, the marker `freezecheck` and the option `--freezecheck`.

pytest loads this file wherever freezecheck is installed, so it imports nothing of ours before a
test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from freezecheck.report.result import Report

_MARKER = (
    "freezecheck(ignore=[...], fail_on='error'|'warning'|'info'): for the fixture assert_sane,"
    " rules that it leaves out (added to those of other markers), and the lowest severity at"
    " which it fails (the closest marker's)"
)
_OPTIONS = ("ignore", "fail_on")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option `--freezecheck`."""
    parser.getgroup("freezecheck").addoption(
        "--freezecheck",
        action="store_true",
        help="say at the end which models freezecheck inspected, and what it found",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; listen, where a summary is wanted."""
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("freezecheck"):
        config.pluginmanager.register(Summary(), "freezecheck-summary")


@pytest.fixture
def assert_sane(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`assert_sane(model, optimizer, trainable="fc.*", ...)`: fail unless the setup is sound.

    `freezecheck.assert_sane`, with the defaults that `@pytest.mark.freezecheck` sets.
    """
    from freezecheck.live import api

    options = _marked(request.node)

    def assert_sane(model: Any, optimizer: Any, **given: Any) -> Report:
        __tracebackhide__ = True
        ignore = [*options["ignore"], *given.pop("ignore", ())]
        given.setdefault("fail_on", options["fail_on"])
        return api.assert_sane(model, optimizer, ignore=ignore, **given)

    return assert_sane


def _marked(node: Any) -> dict[str, Any]:
    """What the markers of a test say. UsageError for one that says something else."""
    options: dict[str, Any] = {"ignore": [], "fail_on": "warning"}
    for marker in reversed([*node.iter_markers("freezecheck")]):  # the closest comes last
        unknown = [repr(a) for a in marker.args] + sorted(set(marker.kwargs) - set(_OPTIONS))
        if unknown:
            raise pytest.UsageError(
                f"{node.nodeid}: @pytest.mark.freezecheck takes {' and '.join(_OPTIONS)},"
                f" not {unknown[0]}"
            )
        ignore = marker.kwargs.get("ignore", ())
        options["ignore"] += [ignore] if isinstance(ignore, str) else ignore
        options["fail_on"] = marker.kwargs.get("fail_on", options["fail_on"])
    return options


class Summary:
    """Hears of every inspection in this process and tells of all of them at the end.

    What a test inspected travels with its report, so that it gets from the workers of
    pytest-xdist to the process that prints.
    """

    def __init__(self) -> None:
        self._heard: list[dict[str, Any]] = []  # since the last report of a test
        self._tests: dict[str, list[dict[str, Any]]] = {}  # test id -> what it inspected

    def pytest_sessionstart(self) -> None:
        """Listen, before any test is imported."""
        from freezecheck.live import api

        api.listeners.append(self._hear)

    def pytest_sessionfinish(self) -> None:
        """Listen no more."""
        from freezecheck.live import api

        if self._hear in api.listeners:
            api.listeners.remove(self._hear)

    def pytest_runtest_logstart(self) -> None:
        """A test begins; what was inspected while tests were imported is nobody's."""
        self._heard = []

    def _hear(self, report: Report) -> None:
        self._heard.append(described(report))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, None]:
        """Give the report of a test's phase what was inspected in it."""
        outcome = yield
        outcome.get_result().freezecheck, self._heard = self._heard, []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take it out again, where the report has arrived."""
        if found := getattr(report, "freezecheck", None):
            self._tests.setdefault(report.nodeid, []).extend(found)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print a paragraph for each test."""
        models = sum(len(each["models"]) for found in self._tests.values() for each in found)
        told = f"{models} model{'' if models == 1 else 's'} in {len(self._tests)}"
        told += f" test{'' if len(self._tests) == 1 else 's'}" if models else ""
        terminalreporter.section(f"freezecheck: {told if models else 'no model was inspected'}")
        for test, found in sorted(self._tests.items()):
            terminalreporter.write_line(test, bold=True)
            for line, bad in _lines(found):
                terminalreporter.write_line(f"  {line}", **({"red": True} if bad else {}))


def described(report: Report) -> dict[str, Any]:
    """What the summary tells of an inspection, as JSON."""
    now = report.snapshot
    lost = {id(p) for p in now.lost}
    models = []
    for index, model in enumerate(now.models):
        params = now.of_model(index)
        norms = [norm for norm in now.batchnorms() if norm.model == index]
        models.append(
            {
                "label": model.label,
                "class": model.class_name,
                "trainable": sum(p.numel for p in params if p.trainable),
                "frozen": sum(p.numel for p in params if not p.trainable),
                "train": sum(norm.training for norm in norms),
                "eval": sum(not norm.training for norm in norms),
                "missing": [p.name for p in params if id(p) in lost] if now.optimizers else None,
            }
        )
    findings = [[f.code, f.name, str(f.severity), f.message] for f in report.findings]
    return {"models": models, "findings": findings}


def _lines(found: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Of one test: each inspection in a few lines, and whether a line tells of something bad.

    An inspection that found the same as the one before it, as in a training loop, is counted.
    """
    told: list[tuple[dict[str, Any], int]] = []
    for each in found:
        if told and told[-1][0] == each:
            told[-1] = (each, told[-1][1] + 1)
        else:
            told.append((each, 1))
    for each, times in told:
        again = f" ({times} times)" if times > 1 else ""
        for model in each["models"]:
            yield _model(model) + again, False
        for code, name, severity, message in each["findings"]:
            yield f"  {severity} {code} {name}: {message}", severity != "info"


def _model(model: dict[str, Any]) -> str:
    """`model (ResNet): 5.13 k trainable, 11.2 M frozen; BatchNorm: 20 eval; none missing`."""
    from freezecheck.snapshot import count, millions, summarise

    facts = [f"{millions(model['trainable'])} trainable, {millions(model['frozen'])} frozen"]
    modes = [f"{model[mode]} {mode}" for mode in ("train", "eval") if model[mode]]
    if modes:
        facts.append(f"BatchNorm: {', '.join(modes)}")
    missing = model["missing"]
    if missing is None:
        facts.append("no optimizer given")
    elif missing:
        facts.append(f"{count(len(missing), 'tensor')} in no optimizer: {summarise(missing)}")
    else:
        facts.append("all trainable in the optimizer")
    return f"{model['label']} ({model['class']}): {'; '.join(facts)}"
