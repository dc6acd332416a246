"""Compiled kernels on disk: a process that computes loads them and never compiles.

A device function that several kernels call is a symbol of one name with different code in each of them: after
compiling, all of them call the first one compiled, after loading the first one loaded, and the two may round
differently. So a missing module is compiled by a child process. Its folder is named after everything that the machine
code depends on and gets its name by one rename when it is complete: a process killed meanwhile leaves nothing that
would be loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

KERNELS = Path(__file__).parent
SOURCES = tuple(KERNELS / f"{name}.py" for name in ("fused_ops", "packed_attention", "decode_attention"))
SHARED = ("vectors.py", "tiles.py", "masked_softmax.py")  # their device functions are compiled into the kernels
ROOT = "DEEPSCALER_KERNEL_CACHE"  # environment: where the folders are, instead of the places below
BUILDING = "DEEPSCALER_KERNEL_BUILD"  # environment of the child: where it leaves what it compiles
LIMIT_S = 600.0
_LOOK_S = 0.1
_DIE_WITH_PARENT = "from deepscaler.lifetime import die_with_parent as d; d"


def compile_all(say: Callable[[str], None]) -> None:
    """Compile all kernels that are not on disk yet, after a word about it."""
    if not all(folder(source).is_dir() for source in SOURCES):
        say("compiling for this processor, once per installation (about ten seconds)")
        ensure(SOURCES)


def folder(source: Path) -> Path:
    """The folder of the compiled kernels of this source file, present or not.

    The name depends on the text, place and time stamp of the source, since numba compiles anew where one of them
    changed, on the text of what is compiled into it, on the versions, and on the processor.
    """
    state = source.stat()
    parts = [str(source), str(state.st_mtime_ns), str(state.st_size), _platform()]
    texts = [path.read_bytes() for path in (source, *(KERNELS / name for name in SHARED))]
    digest = hashlib.sha256(b"\0".join([*(part.encode() for part in parts), *texts])).hexdigest()[:16]
    return _root(source) / f"{source.stem}-{digest}"


def ensure(sources: Sequence[Path]) -> None:
    """Have children compile what is missing of these modules, side by side. Raises RuntimeError with what one printed.

    Does nothing in such a child.
    """
    missing = [source for source in sources if BUILDING not in os.environ and not folder(source).is_dir()]
    with contextlib.ExitStack() as locks:
        for source in missing:
            locks.enter_context(_locked(folder(source)))
        children = [_Child(source) for source in missing if not folder(source).is_dir()]
        try:
            for child in children:
                child.finish()
        finally:
            for child in children:
                child.discard()


def place(source: Path) -> Path:
    """The folder in which numba looks for the kernels of this file, and in which a child leaves them."""
    return Path(os.environ[BUILDING]) if BUILDING in os.environ else folder(source)


def check_loaded(source: Path, hits: int) -> None:
    """Raise RuntimeError if a kernel of this file was compiled by a process that computes."""
    if BUILDING not in os.environ and not hits:
        raise RuntimeError(
            f"the compiled kernels of {source.name} could not be loaded from {folder(source)}; "
            "remove that folder, and they are compiled again"
        )


class _Child:
    """A process that compiles one module into a folder beside the final one."""

    def __init__(self, source: Path) -> None:
        self._target = folder(source)
        for stale in self._target.parent.glob(f".{self._target.name}.*.building"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        self._building = self._target.with_name(f".{self._target.name}.{os.getpid()}.building")
        self._building.mkdir()
        self._name = f"deepscaler.cpu.kernels.{source.stem}"
        path = os.pathsep.join([str(KERNELS.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{_DIE_WITH_PARENT}({os.getpid()}); import {self._name}"],  # importing compiles
            env={**os.environ, BUILDING: str(self._building), "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(self) -> None:
        try:
            output, _ = self._process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"compiling {self._name} for this processor took over {LIMIT_S:.0f} s") from None
        if self._process.returncode:
            last = "\n".join(output.splitlines()[-15:])
            raise RuntimeError(
                f"compiling {self._name} for this processor failed (exit code {self._process.returncode}): {last}"
            )
        self._building.rename(self._target)

    def discard(self) -> None:
        """End the process, if it still runs, and remove what it left."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._building, ignore_errors=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that one process compiles and the others wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + LIMIT_S
    with target.with_name(f".{target.name}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RuntimeError(
                        f"another process has compiled for over {LIMIT_S:.0f} s and holds {file.name}"
                    ) from None
                time.sleep(_LOOK_S)
        yield


def _platform() -> str:
    """Processor, settings and versions on which numba's own index of compiled functions depends."""
    import llvmlite.binding

    features = sorted(name for name, has in llvmlite.binding.get_host_cpu_features().items() if has)
    chosen = [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT")]
    versions = [version("numba"), version("llvmlite"), sys.version]
    return " ".join([llvmlite.binding.get_host_cpu_name(), *features, *chosen, *versions])


def _root(source: Path) -> Path:
    """Beside the sources, else among the user's files, else in a folder that ends with this process."""
    if ROOT not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        for root in (source.parent / "__pycache__", cache / "deepscaler"):
            if _is_writable(root):
                return root
        os.environ[ROOT] = tempfile.mkdtemp(prefix="deepscaler-kernels-")  # worker processes find it there
        atexit.register(shutil.rmtree, os.environ[ROOT], ignore_errors=True)
    return Path(os.environ[ROOT])


def _is_writable(root: Path) -> bool:
    nearest = next(path for path in (root, *root.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
