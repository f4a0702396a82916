"""The process tree of a command: found, frozen and killed whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from freezecheck.live import processes
from freezecheck.live.processes import Process, Tree, adopting_orphans, ancestors, descendants

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses /proc")


@pytest.fixture
def tree():
    """A tree to start processes in; whatever a test does, none is left."""
    with adopting_orphans():
        tree = Tree(uuid.uuid4().hex)
        yield tree
        tree.stop()


def start(tree: Tree, *command: str) -> None:
    env = {**os.environ, "FREEZECHECK_TEST": tree._mark.decode()}
    tree.root = subprocess.Popen(
        command, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def carriers(tree: Tree) -> list[int]:
    """Processes with the tree's mark, by a way of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if tree._mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)


def no_children() -> bool:
    """Nothing of the tree is left to be reaped either."""
    return not [p for p in processes.table().values() if p.parent == os.getpid() and p.ended]


def test_a_tree_with_daemons_ends_whole(tree):
    """Children, children's children, one in its own session, one orphaned twice."""
    start(
        tree,
        "bash",
        "-c",
        "sleep 1000 & bash -c 'sleep 1001 & wait' & (setsid sleep 1002 &) & "
        "(bash -c 'bash -c \"sleep 1003 & exit\" & exit' &) ; wait",
    )
    wait_until(lambda: len(carriers(tree)) == 6)
    wait_until(lambda: sum(not p.ended for p in tree.members().values()) == 6)
    tree.stop()
    assert carriers(tree) == []
    assert tree.members() == {}
    assert no_children()
    assert tree.root.returncode == -signal.SIGKILL


def test_processes_that_refuse_to_end_end(tree):
    start(tree, "bash", "-c", "trap '' TERM INT HUP; kill -STOP $$; sleep 1000")
    wait_until(lambda: tree.members()[tree.root.pid].state == "T")
    tree.stop()
    assert carriers(tree) == []


def test_a_tree_that_keeps_growing_is_caught(tree):
    """Every process starts two more, for ever, a hundred and more at a time."""
    grow = (
        "import os, sys, time\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: time.sleep(0.3)\n"
        "        os._exit(0)\n"
        "    time.sleep(0.002)\n"
    )
    start(tree, sys.executable, "-S", "-c", grow)
    wait_until(lambda: len(carriers(tree)) > 50)
    tree.stop()
    assert carriers(tree) == []
    time.sleep(0.1)
    assert carriers(tree) == []


def test_frozen_before_killed_so_that_no_parent_sees_it(tree, tmp_path):
    script = f"trap 'touch {tmp_path}/trap' CHLD EXIT; while true; do sleep 1000; touch {tmp_path}/on; done"
    start(tree, "bash", "-c", script)
    wait_until(lambda: len(tree.members()) == 2)
    tree.stop()
    assert list(tmp_path.iterdir()) == []


def test_strangers_are_spared():
    """Children of ours that the command did not start: from before, and from during."""
    with adopting_orphans():
        before = subprocess.Popen(["sleep", "1000"])
        tree = Tree(uuid.uuid4().hex)
        start(tree, "sleep", "1001")
        during = subprocess.Popen(["sleep", "1002"])
        wait_until(lambda: carriers(tree) == [tree.root.pid])
        tree.stop()
        assert carriers(tree) == []
        assert (before.poll(), during.poll()) == (None, None)
        for process in (before, during):
            process.kill()
            process.wait()


def test_stopping_twice_or_after_the_end_is_harmless(tree):
    tree.stop()  # nothing was started
    start(tree, "true")
    tree.root.wait()
    tree.stop()
    tree.stop()
    assert tree.root.returncode == 0


def test_shared_memory_is_removed_by_those_who_answer_for_it(tree):
    name = f"fc_{uuid.uuid4().hex}"
    code = (
        "import time\n"
        "from multiprocessing import shared_memory\n"
        f"memory = shared_memory.SharedMemory(create=True, size=64, name={name!r})\n"
        "print('made', flush=True)\n"
        "time.sleep(1000)\n"
    )
    start(tree, sys.executable, "-c", code)
    assert tree.root.stdout.readline() == b"made\n"
    wait_until(lambda: any(map(processes.helps, tree.members())))
    segment = Path("/dev/shm") / name
    assert segment.exists()
    start_of_stop = time.monotonic()
    tree.stop()
    assert time.monotonic() - start_of_stop < 3
    assert not segment.exists()
    assert carriers(tree) == []


def test_shared_memory_of_torch_is_removed(tree):
    start(tree, "sleep", "1000")
    ours = Path("/dev/shm") / f"torch_{tree.root.pid}_1_2"
    theirs = Path("/dev/shm") / f"torch_{tree.root.pid}0_1_2"
    try:
        ours.touch()
        theirs.touch()
        tree.stop()
        assert not ours.exists()
        assert theirs.exists()
    finally:
        theirs.unlink()
        ours.unlink(missing_ok=True)


def test_the_table_is_read_whatever_a_process_is_called(tmp_path):
    program = tmp_path / "a) R (b 1 2"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "1000"])
    try:
        wait_until(lambda: processes.table()[process.pid].state == "S")
        assert processes.table()[process.pid].parent == os.getpid()
    finally:
        process.kill()
        process.wait()
    assert process.pid not in processes.table()


def test_orphans_are_adopted_only_while_asked():
    def reaper() -> bool:
        code = (
            "import os, time\n"
            "if os.fork(): os._exit(0)\n"
            "while os.getppid() == int(__import__('sys').argv[1]): pass\n"
            "time.sleep(0.05)\n"
            "print(os.getppid(), flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code, "0"], stdout=subprocess.PIPE, text=True
        )
        out, _ = process.communicate(timeout=20)
        return int(out) == os.getpid()

    with adopting_orphans():
        assert reaper()
    assert not reaper()
    while True:  # the adopted one, which has ended
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break


def test_above_and_below():
    parents = {1: 0, 10: 1, 11: 10, 12: 10, 13: 12, 20: 1}
    known = {pid: Process(pid, parent, 1, "S") for pid, parent in parents.items()}
    assert descendants({10}, known) == {10, 11, 12, 13}
    assert descendants({12, 20}, known) == {12, 13, 20}
    assert descendants(set(), known) == set()
    assert ancestors(13, known) == {12, 10, 1, 0}
    assert ancestors(99, known) == set()
