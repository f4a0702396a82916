"""Writes what a script can see of the world it runs in to the file named first."""

import json
import os
import signal
import subprocess
import sys


def look():
    main = sys.modules["__main__"]
    spec = main.__spec__
    return {
        "argv": sys.argv[2:],
        "orig_argv": sys.orig_argv[:1] + sys.orig_argv[-1:],
        "cwd": os.getcwd(),
        "path": sys.path,
        "file": __file__,
        "name": __name__,
        "environ": dict(os.environ),
        "environb": sorted(map(repr, os.environb)),
        "getenv": [os.getenv("PYTHONPATH"), os.getenv("FREEZECHECK_RUN")],
        "main": sorted(vars(main)),
        "main is us": main.__dict__ is globals(),
        "spec": None if spec is None else [spec.name, spec.origin],
        "loader": type(main.__loader__).__name__,
        "package": main.__package__,
        "flags": list(sys.flags),
        "prefix": [sys.prefix, sys.base_prefix, sys.executable],
        "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
        "modules": sorted(m for m in sys.modules if "custom" in m or m.startswith("torch.opt")),
        "switch": sys.getswitchinterval(),
        "umask": os.umask(os.umask(0)),
        "stdin": None if sys.stdin is None else sys.stdin.encoding,
    }


def children():
    """The environment that child processes see, however they are started."""
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-c", show]
    stripped = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    seen = [
        subprocess.check_output(command),
        subprocess.check_output(command, env=os.environ),
        subprocess.check_output(command, env=dict(os.environ, MORE="1")),
        subprocess.check_output(command, env=stripped),
        subprocess.check_output(command, env=dict(os.environ, PYTHONPATH="/nowhere")),
        subprocess.check_output(command, env={**os.environ, "PYTHONPATH": ""}),
        subprocess.check_output(command, close_fds=False, env={**os.environ, "MORE": "2"}),
    ]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = "/elsewhere"
    seen.append(subprocess.check_output(command))
    del os.environ["PYTHONPATH"]
    seen.append(subprocess.check_output(command))
    if before is not None:
        os.environ["PYTHONPATH"] = before
    read, write = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        command,
        {**os.environ, "MORE": "3"},
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    os.close(write)
    with open(read, "rb") as pipe:
        seen.append(pipe.read())
    os.waitpid(pid, 0)
    return [json.loads(text) for text in seen]


if __name__ == "__main__":
    world = {"before": look(), "children": children()}
    if "torch" in sys.argv:
        import torch  # noqa: F401

        world["after"] = look()
    with open(sys.argv[1], "w") as file:
        json.dump(world, file)
