"""What the processes of a run have told so far: their notes, reports and whereabouts.

Each process of the command writes `PID.log` (one note a line), `PID.json`
(its report, whole or not at all) and, when asked, `PID.hang` into the folder
of the run. A folder outlives closed descriptors and killed processes, which a
pipe would not.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import frames, processes
from freezecheck.live.processes import Process
from freezecheck.memory import Memory
from freezecheck.phases import Phase
from freezecheck.plain import decode
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline
from freezecheck.trace import Trace
from freezecheck.warmup import Progress

PHASES = ("starting", "importing torch", "building", "first batch", "stepping")
_REACHED = {"importing": 1, "recording": 2, "optimizer": 3, "backward": 4, "report": 4}
_STDLIB = re.compile(r"[/\\]lib[/\\]python3\.\d+[/\\]")  # also that of another Python
_ANSWER = 0.5  # seconds within which a process says where it stands


@dataclass(slots=True)
class Report:
    """One process's record. `stepped` is False for what was seen before any step, which is then
    the `snapshot`; the phases are empty."""

    pid: int
    rank: int | None
    stepped: bool
    snapshot: Snapshot | None  # of the first phase, where there are any
    timeline: Timeline
    phases: tuple[Phase, ...] = ()
    traces: tuple[Trace, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stood: the innermost line of the user's own that it was in."""

    pid: int
    rank: int | None
    site: Site
    function: str


@dataclass(slots=True)
class Notes:
    """What one process has told."""

    read: int = 0  # bytes of its log
    words: dict[str, str] = field(default_factory=dict)  # note -> what it said, latest

    @property
    def done(self) -> bool:
        return "report" in self.words or "failed" in self.words


class Board:
    """Reads the folder of a run."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.notes: dict[int, Notes] = {}

    def read(self) -> bool:
        """Take in what is new; whether anything was."""
        news = False
        for entry in os.scandir(self.folder):
            stem, _, kind = entry.name.partition(".")
            if kind != "log":
                continue
            notes = self.notes.setdefault(int(stem), Notes())
            if entry.stat().st_size == notes.read:
                continue
            with open(entry.path, "rb") as file:
                file.seek(notes.read)
                text, newline, _ = file.read().rpartition(b"\n")
            notes.read += len(text) + len(newline)
            for line in text.decode("utf-8", "replace").splitlines():
                word, _, rest = line.partition("\t")
                notes.words[word] = rest
                news = True
        return news

    def said(self, word: str) -> list[str]:
        """What the processes that gave this note said with it."""
        return [n.words[word] for n in self.notes.values() if word in n.words]

    def weights_left_out(self) -> list[str]:
        """The weights that the processes did without."""
        names = (name for said in self.said("weights") for name in said.split("\t"))
        return list(dict.fromkeys(filter(None, names)))

    @property
    def phase(self) -> int:
        """The furthest phase that any process has reached; an index into `PHASES`."""
        words = (word for notes in self.notes.values() for word in notes.words)
        return max((_REACHED.get(word, 0) for word in words), default=0)

    @property
    def settled(self) -> bool:
        """A process holds still at its step."""
        return any(notes.done for notes in self.notes.values())

    @property
    def stepped(self) -> bool:
        """A process has reported a step."""
        return bool(self.said("report") or self.said("phase"))

    @property
    def until(self) -> str:
        """What the command was run to: "step", or of a function "call" or "backward"."""
        for told in self.said("until"):
            return told
        return "call" if self.said("calling") and not self.stepped else "step"

    def remarks(self) -> list[str]:
        """What is to be said of the call of a function, and of batches that could not be cut."""
        remarks = [remark for told in self.said("remarks") for remark in json.loads(told)]
        return remarks + list(dict.fromkeys(self.said("uncut")))

    def memory(self) -> Memory | None:
        """Under `--fake`, what the process that needs most would hold."""
        told = [Memory(*json.loads(text)) for text in self.said("memory")]
        return max(told, key=lambda memory: memory.total, default=None)

    def progress(self) -> Progress | None:
        """How far a probe is."""
        for told in self.said("progress"):
            return decode(Progress, json.loads(told))
        return None

    def probed(self, kind: str) -> Any:
        """What a process has written of a probe: its "probe" or "cost"; None: nothing."""
        for pid in self.notes:
            path = os.path.join(self.folder, f"{pid}.{kind}")
            if os.path.exists(path):
                with open(path, "rb") as file:
                    return json.load(file)
        return None

    def pending(self, members: Mapping[int, Process]) -> list[int]:
        """Processes that may yet report: those that have an optimizer, and those beside the ones
        that have reported (neither above them, as launchers are, nor below, as loaders' workers)."""
        done = {pid for pid, notes in self.notes.items() if notes.done}
        family = processes.descendants(done, members)
        for pid in done:
            family |= processes.ancestors(pid, members)
        return [
            pid
            for pid in self.live(members)
            if ("optimizer" in self.notes[pid].words or pid not in family)
            and not processes.helps(pid)
        ]

    def live(self, members: Mapping[int, Process]) -> list[int]:
        """Python processes that still run and have not reported."""
        return [
            pid
            for pid, notes in self.notes.items()
            if not notes.done and pid in members and not members[pid].ended
        ]

    def training(self, pids: Iterable[int]) -> bool:
        """One of them has imported torch, or is about to have."""
        return any("recording" in self.notes[pid].words for pid in pids) or self.importing(pids)

    def importing(self, pids: Iterable[int]) -> bool:
        """One of them is busy importing torch, which may take long and tells nothing meanwhile."""
        ends = {"recording", "broken", "failed"}
        return any(
            "importing" in words and not ends & words.keys()
            for words in (self.notes[pid].words for pid in pids)
        )

    def reports(self) -> list[Report]:
        """Every report, by rank."""
        found = []
        for pid in self.notes:
            try:
                with open(os.path.join(self.folder, f"{pid}.json"), "rb") as file:
                    data = json.load(file)
            except FileNotFoundError:
                continue
            phases = decode(tuple[Phase, ...], data["phases"])
            snapshot = data["snapshot"] and Snapshot.from_dict(data["snapshot"])
            if phases:
                snapshot = phases[0].snapshot
                phases[-1].last = max(phases[-1].last, self._steps(pid))
            timeline = decode(Timeline, data["timeline"])
            traces = decode(tuple[Trace, ...], data["traces"])
            found.append(
                Report(pid, data["rank"], data["stepped"], snapshot, timeline, phases, traces)
            )
        return sorted(found, key=lambda r: (not r.stepped, r.rank is None, r.rank or 0, r.pid))

    def _steps(self, pid: int) -> int:
        """The step that a process was at, as far as it has said."""
        return int(self.notes[pid].words.get("step", "0").partition("\t")[0])

    def news(self) -> str:
        """How far the furthest process is, in words; empty before its first step."""
        pid = max(self.notes, key=self._steps, default=0)
        if not self.notes or not self._steps(pid):
            return ""
        words = self.notes[pid].words
        step, _, epoch = words["step"].partition("\t")
        phase = words.get("phase", "1")
        told = [f"step {int(step):,}", f"epoch {epoch}" if epoch else "", f"phase {phase}"]
        return ", ".join(filter(None, told))

    def where(self, pids: Iterable[int]) -> list[Place]:
        """Ask processes where they stand; each innermost line of the user's once a rank."""
        files = {}
        for pid in pids:
            number = self.notes[pid].words.get("signal")
            if number is not None:
                files[pid] = os.path.join(self.folder, f"{pid}.hang")
                processes.send(pid, int(number))
        sizes: list[int] = []
        deadline = time.monotonic() + _ANSWER
        while files and time.monotonic() < deadline:
            time.sleep(0.02)
            before, sizes = sizes, [os.path.getsize(path) for path in files.values()]
            if sizes == before and all(sizes):
                break
        places: dict[tuple[int | None, Site], Place] = {}
        for pid, path in files.items():
            with open(path, encoding="utf-8", errors="replace") as file:
                found = innermost(file.read())
            if found is not None:
                rank = self.notes[pid].words.get("rank", "")
                place = Place(pid, int(rank) if rank.isdecimal() else None, *found)
                places.setdefault((place.rank, place.site), place)
        return list(places.values())


def innermost(dump: str) -> tuple[Site, str] | None:
    """The user's innermost line and its function in what `faulthandler` wrote.

    The main thread comes last in it; another thread counts if that one has no
    line of the user's.
    """
    for thread in reversed(re.split(r"^(?:Current t|T)hread .*$", dump, flags=re.MULTILINE)):
        for path, line, function in re.findall(
            r'^  File "(.+)", line (\d+) in (.+)$', thread, re.M
        ):
            if frames.is_users(path) and not _STDLIB.search(path):
                return Site(frames.shown(path), int(line)), function
    return None
