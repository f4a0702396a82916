"""`--fix` and `--diff`: fix what was found, look again, until nothing changes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

from freezecheck import fixes
from freezecheck.finding import Finding
from freezecheck.lint import Settings, lint
from freezecheck.report.linted import Linted
from freezecheck.report.place import split
from freezecheck.source import notebook
from freezecheck.source.read import decode

_ROUNDS = 5  # a fix may bring another finding to light


class Mended:
    """What is left after fixing, and what to write: the bytes of each changed file, before
    and after. `applied` fixes were made; `left` were not, since they are not safe."""

    def __init__(self) -> None:
        self.linted = Linted()
        self.old: dict[str, bytes] = {}
        self.new: dict[str, bytes] = {}
        self.applied = 0
        self.left = 0

    def diff(self) -> str:
        """The changes as a patch; of a notebook, those of its cells."""
        return "".join(
            fixes.diff(name, old, new)
            for path in self.new
            for name, old, new in _changed_texts(path, self.old[path], self.new[path])
        )

    def write(self) -> None:
        """Put the new texts in the place of the old ones. OSError where that cannot be done."""
        for path, data in self.new.items():
            _write(path, data)


def mend(files: Sequence[str], settings: Settings, *, unsafe: bool, jobs: int | None) -> Mended:
    """Fix what can be fixed in these files, in memory; others are left alone."""
    mended = Mended()
    ours = set(files)
    for _ in range(_ROUNDS):
        mended.linted = lint(files, settings, jobs=jobs)
        within = [f for f in mended.linted.findings if _edits(f) <= ours]
        texts = _Texts(settings)
        fixed = fixes.apply(within, texts.read, unsafe=unsafe)
        mended.left = fixed.unsafe
        changed = dict(texts.changed(fixed.texts))
        if not changed:
            break
        mended.applied += fixed.applied
        for path, data in changed.items():
            mended.old.setdefault(path, settings.data(path))
            mended.new[path] = settings.texts[path] = data
    return mended


def _edits(finding: Finding) -> set[str]:
    """The files that a finding's fix would change."""
    return {split(edit.site.path)[0] for edit in finding.fix.edits} if finding.fix else set()


class _Texts:
    """Texts of files and of cells, from bytes and back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def read(self, path: str) -> str:
        """The text of a file, with its line ends, or of a cell."""
        file, number = split(path)
        data = self._settings.data(file)
        if number is None:
            return decode(data)[0]
        return notebook.source_of(notebook.raw_cells(notebook.load(data))[number - 1])

    def changed(self, texts: dict[str, str]) -> Iterator[tuple[str, bytes]]:
        """The new bytes of every file with a changed text, in the encoding that it has."""
        cells: dict[str, dict[int, str]] = {}
        for path, text in texts.items():
            file, number = split(path)
            if number is not None:
                cells.setdefault(file, {})[number] = text
            else:
                encoding = decode(self._settings.data(path))[1]
                with contextlib.suppress(UnicodeEncodeError):
                    yield path, text.encode(encoding)
        for file, sources in cells.items():
            data = notebook.with_sources(self._settings.data(file), sources)
            if data is not None:
                yield file, data


def _changed_texts(path: str, old: bytes, new: bytes) -> Iterator[tuple[str, str, str]]:
    if not path.endswith(".ipynb"):
        yield path, decode(old)[0], decode(new)[0]
        return
    pairs = zip(*(notebook.raw_cells(notebook.load(data)) for data in (old, new)))
    for number, (before, after) in enumerate(pairs, 1):
        texts = notebook.source_of(before), notebook.source_of(after)
        if texts[0] != texts[1]:
            yield f"{path}[cell {number}]", *texts


def _write(path: str, data: bytes) -> None:
    """All of it or nothing, whatever happens on the way; links and permissions stay."""
    path = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".freezecheck-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, os.stat(path).st_mode & 0o7777)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
