"""`--sandbox`: whatever a command writes, nothing is left of it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from freezecheck.live import runner
from freezecheck.live.plan import Plan
from freezecheck.live.runner import python_command

SCRIPTS = Path(__file__).parent / "scripts"
REPOSITORY = Path(__file__).parent.parent
LIMIT = 120  # seconds


def works() -> bool:
    """This system lets us mount."""
    if not sys.platform.startswith("linux"):
        return False
    return runner.run(["true"], plan=Plan(sandbox=True), timeout=LIMIT).outcome == "ended"


pytestmark = pytest.mark.skipif(not works(), reason="no mount namespaces or no overlayfs here")


@pytest.fixture
def places(monkeypatch):
    """A project, a home, a folder for the moment and one elsewhere, each with a file."""
    base = Path(tempfile.mkdtemp(prefix="sandbox-", dir="/var/tmp"))
    names = {"project": "project", "HOME": "home", "TMPDIR": "tmp, with: odd\\characters"}
    found = []
    for name in (*names.values(), "elsewhere"):
        (base / name).mkdir()
        (base / name / "there").write_text("the user's")
        found.append(base / name)
    (base / "empty").mkdir()
    monkeypatch.setenv("HOME", str(found[1]))
    monkeypatch.setenv("TMPDIR", str(found[2]))
    monkeypatch.setattr(tempfile, "tempdir", str(found[2]))
    monkeypatch.setenv("FREEZECHECK_TEST", uuid.uuid4().hex)
    monkeypatch.chdir(found[0])
    yield [*found, base / "empty"]
    shutil.rmtree(base)


def unchanged(places: list[Path]) -> bool:
    return (
        all([p.name for p in place.iterdir()] == ["there"] for place in places[:-1])
        and all((place / "there").read_text() == "the user's" for place in places[:-1])
        and not any(places[-1].iterdir())
        and not os.path.exists("/dev/shm/" + os.environ["FREEZECHECK_TEST"])
    )


def test_nothing_that_is_written_is_left(places):
    command = python_command(str(SCRIPTS / "writes.py"), ["7", *map(str, places)])
    before = Path("/proc/self/mountinfo").read_text()
    result = runner.run(command, plan=Plan(sandbox=True), timeout=LIMIT)
    assert (result.exit_status, result.stderr_tail) == (7, "wrote everywhere")
    assert unchanged(places)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_the_same_script_does_write(places):
    """Else the test above would prove nothing."""
    command = python_command(str(SCRIPTS / "writes.py"), ["0", *map(str, places)])
    try:
        assert runner.run(command, plan=Plan(), timeout=LIMIT).exit_status == 0
        assert not unchanged(places)
    finally:
        Path("/dev/shm/" + os.environ["FREEZECHECK_TEST"]).unlink()


def test_a_run_is_inspected_as_ever(places):
    command = python_command(str(SCRIPTS / "plain.py"))
    result = runner.run(command, plan=Plan(sandbox=True), timeout=LIMIT)
    assert result.outcome == "inspected", result.stderr_tail
    assert result.reports[0].stepped
    assert unchanged(places)


NO_RIGHTS = """
import json, sys
from freezecheck.live import runner
from freezecheck.live.plan import Plan
r = runner.run(sys.argv[1:], plan=Plan(sandbox=True))
print(json.dumps([r.exit_status, r.hint, r.stderr_tail]))
"""


def may_not_mount() -> None:
    """Root without CAP_SYS_ADMIN from the next exec on (prctl(2), PR_CAPBSET_DROP)."""
    ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
@pytest.mark.parametrize("user", [0, 12345])
def test_it_needs_no_rights(places, user):
    """In a user namespace, as root that may not mount and as a user who may do nothing."""
    base = places[0].parent
    for path in (base, *base.rglob("*")):
        os.chown(path, user, user)
    script = [sys.executable, str(SCRIPTS / "writes.py"), "7", *map(str, places)]
    options = {"preexec_fn": may_not_mount} if user == 0 else {"user": user, "group": user}
    try:
        done = subprocess.run(
            [sys.executable, "-c", NO_RIGHTS, *script],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            **options,
        )
    except PermissionError:
        pytest.skip("another user may not run this Python")
    assert done.returncode == 0, done.stderr
    status, hint, tail = json.loads(done.stdout)
    assert (status, tail) == (7, "wrote everywhere"), hint
    assert unchanged(places)


def test_where_it_cannot_be_one_line_says_so(places):
    """In a user namespace that may make no further ones."""
    script = (
        "echo 0 > /proc/sys/user/max_mnt_namespaces && exec"
        f" {sys.executable} -m freezecheck inspect --sandbox {SCRIPTS / 'plain.py'}"
    )
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1)")
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", script], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--sandbox does not work on this system: user namespaces are not allowed here" in line


def test_a_command_that_is_not_there(places):
    result = runner.run(["no-such-command"], plan=Plan(sandbox=True))
    assert (result.outcome, result.hint) == ("not started", "no-such-command: command not found")


def test_on_other_systems_one_line_says_so(monkeypatch, capsys):
    from freezecheck import cli

    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.main(["inspect", "--sandbox", str(SCRIPTS / "plain.py")]) == 2
    assert capsys.readouterr().err.startswith("freezecheck: --sandbox needs Linux")
