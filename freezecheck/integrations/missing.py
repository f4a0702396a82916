"""A framework that is not installed is told in one line."""

from __future__ import annotations


def missing(error: ModuleNotFoundError, framework: str, package: str = "") -> ImportError:
    """What to raise where `import framework` failed: `error` itself if something else is missing."""
    if (error.name or "").partition(".")[0] != framework:
        return error
    return ImportError(
        f"freezecheck's callback for {framework} needs {framework}: pip install"
        f" {package or framework}",
        name=framework,
    )
