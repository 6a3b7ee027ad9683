"""`python -m …` as a user types it, for tests: most of such a command's time would be the import of torch.

A command of training or export runs in a process that is forked from one that has imported the libraries, and nothing of
ours, before; that saves the 3 to 5 seconds of processor time of a fresh interpreter. All else is as in one: module run as
`__main__`, arguments, output, exit code, signals. (Only `atexit` hooks do not run.) What must be fresh is: whatever gets an
environment of its own, since libraries read it when they are imported, and the service, which must not have torch at all.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).parent.parent
FORKED = {"training", "export"}  # the rooms, and what is in them, whose commands are forked
LIBRARIES = [
    "torch", "transformers.models.blip.modeling_blip", "transformers.models.blip.image_processing_pil_blip", "accelerate",
    "datasets", "kornia.augmentation", "onnx", "onnxruntime.quantization", "onnxscript.optimizer", "optimum.exporters.base",
    "sklearn.metrics", "scipy.optimize", "scipy.stats", "jinja2", "pydantic.main", "pillow_heif",
    "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "matplotlib.figure", "pytest",
]  # fmt: skip

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(LIBRARIES)


def run_module(
    *args: object, timeout: float = 300, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m args…` in the repository root and wait for its end, `timeout` seconds at most.

    `env` is added to this process's environment. Raises `subprocess.TimeoutExpired`.
    """
    module, *rest = map(str, args)
    if env is None and module.split(".")[0] in FORKED:
        with Started(module, *rest) as process:
            return process.wait(timeout)
    command = [sys.executable, "-m", module, *rest]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {}), check=False
    )


class Started:
    """`python -m args…` of training or export in a forked process; killed at the end of a `with`.

    `env` is added to the environment, for what is read when the command runs. `prepare` is called
    in the process before the command, to break something or to limit it; it must be picklable.
    """

    def __init__(
        self, *args: object, env: dict[str, str] | None = None, prepare: Callable[[], object] | None = None
    ) -> None:
        self._args = [str(arg) for arg in args]
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 (closed by __exit__)
        names = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._files]
        environment = os.environ | (env or {})
        self._process = FORKS.Process(target=_as_main, args=(self._args, names, environment, prepare))
        self._process.start()

    @property
    def pid(self) -> int:
        """The process's number, for signals."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once it has ended."""
        return self._process.exitcode is None

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Its end, `timeout` seconds at most. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._args, timeout, *map(_read, self._files))
        return subprocess.CompletedProcess(self._args, self._process.exitcode, *map(_read, self._files))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        for file in self._files:
            file.close()


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _as_main(
    args: list[str], outputs: list[str], environment: dict[str, str], prepare: Callable[[], object] | None
) -> None:
    """In the forked process."""
    for number, name in enumerate(outputs, start=1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    multiprocessing.set_start_method(None, force=True)  # it would start its own processes by a server as well
    if prepare is not None:
        prepare()
    sys.argv = args
    runpy.run_module(args[0], run_name="__main__", alter_sys=True)
