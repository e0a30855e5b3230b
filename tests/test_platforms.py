"""Where it runs: every module imports without what Windows lacks, and sample and critic-score work there; every version
of Python that is claimed compiles the sources; and the use from Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from tiny import call, new_run, save

ROOT = Path(__file__).parent.parent

# What Windows has not got, but for what torch and Python's own modules use on Linux: taken away before all imports.
LIKE_WINDOWS = """if True:
    import asyncio, mmap, os, signal, sys  # asyncio, which torch imports, is built on fcntl here

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name in ("fcntl", "grp", "pwd", "pty", "resource", "termios", "tty"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in ("fcntl", "grp", "pwd", "pty", "resource", "termios", "tty"):
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Missing())
    lacking = {
        signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH "
                "pthread_sigmask setitimer sigwait set_blocking",
        os: "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fork forkpty geteuid getloadavg getpgid "
            "getuid killpg mkfifo nice posix_fadvise sched_getaffinity sched_setaffinity setsid statvfs sysconf wait "
            "waitid",
        mmap: "MADV_DONTNEED MADV_HUGEPAGE MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED",
    }
    for module, names in lacking.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    if hasattr(os, "process_cpu_count"):
        os.process_cpu_count = os.cpu_count  # as it is there
"""
IMPORT_ALL = """
    import importlib, pkgutil, wgan_cli
    names = [found.name for found in pkgutil.walk_packages(wgan_cli.__path__, "wgan_cli.")]
    for name in names:
        if not name.endswith(("__main__", "_C")):  # the latter needs torch before it
            importlib.import_module(name)
    print(len(names), "wgan_cli.data.pool" in names, "fcntl" in sys.modules)
"""
RUN = """
    import json
    from wgan_cli.cli import main
    for words in json.loads(sys.argv[1]):  # one command after the other, as torch takes seconds to import
        sys.argv[1:] = words
        try:
            main()
        except SystemExit as end:
            for stream in (sys.stdout, sys.stderr):
                print(f"ended with {end.code}", file=stream, flush=True)
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def python(script: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables)


def without_what_windows_lacks(*commands: tuple[str | Path, ...]) -> list[Ended]:
    """The commands, in one process."""
    done = python(LIKE_WINDOWS + RUN, json.dumps([[*map(str, words)] for words in commands]))
    assert done.returncode == 0, done.stderr
    out, err = (re.split(r"^ended with (\d+)\n", text, flags=re.M) for text in (done.stdout, done.stderr))
    assert len(out) == len(err) == 2 * len(commands) + 1
    return [Ended(int(out[i + 1]), out[i], err[i]) for i in range(0, 2 * len(commands), 2)]


def test_every_module_imports_without_what_windows_lacks() -> None:
    done = python(LIKE_WINDOWS + IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    count, walked, found = done.stdout.split()
    assert int(count) > 30 and (walked, found) == ("True", "False")


def test_the_commands_work_without_what_windows_lacks(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    grid, many, each = (f"{tmp_path}/{name}" for name in ("grid.png", "many.npz", "each/"))
    draw = ("sample", checkpoint, "-n", "4", "-o")
    shown, *drawn = without_what_windows_lacks(("--help",), (*draw, grid), (*draw, many), (*draw, each))
    score = ("critic-score", checkpoint)
    scored, broken = without_what_windows_lacks((*score, images), (*score, "missing.png"))
    assert (shown.code, shown.err) == (0, "") and shown.out.startswith("Usage: wgan ")
    assert drawn[:2] == [(0, f"{out}\n", "") for out in (grid, many)]
    with Image.open(grid) as picture:
        assert picture.size == (38, 38)
    assert drawn[2].code == 0
    assert len(list((tmp_path / "each").iterdir())) == 4 and not list(tmp_path.rglob("*.tmp"))
    assert (scored.code, scored.err, len(scored.out.splitlines())) == (0, "", 32)
    assert scored.out == call("critic-score", checkpoint, images).out.decode()
    assert broken.code == 3 and "missing.png: no such file" in broken.err


def test_a_file_has_to_be_closed_to_take_its_name(tmp_path: Path) -> None:
    """As on Windows, where neither an open file nor one under a lock can be renamed."""
    script = (
        LIKE_WINDOWS
        + """
    from pathlib import Path
    from wgan_cli import UsageError, files
    replace = os.replace

    def as_windows(source, target):
        open_ones = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n != "3"]
        if str(source) in open_ones:
            raise PermissionError(13, "being used by another process")
        replace(source, target)

    os.replace = as_windows
    with files.replacing("a.txt") as file:
        file.write(b"whole")
    print(Path("a.txt").read_text())
    with files.lock(Path("b/c")):
        try:
            with files.lock(Path("b/c")):
                print("twice")
        except UsageError as error:
            print(error)
    print(Path("b").exists())
    """
    )
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message = f"{Path('b/c')}: another process is training there; wait for it or stop it, or choose another -o"
    assert done.stdout.splitlines() == ["whole", message, "False"]


def versions() -> list[str]:
    """Of Python, as pyproject.toml claims them."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def test_the_tools_check_for_the_oldest_python_that_is_claimed() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    oldest, *_ = versions()
    assert f'requires-python = ">={oldest}"' in text and f'python_version = "{oldest}"' in text
    assert f'target-version = "py{oldest.replace(".", "")}"' in text


def interpreter(version: str) -> str | None:
    """A Python of that version: the one that runs this, or one of PATH's or pyenv's."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    own = [sys.executable] if sysconfig.get_python_version() == version else []
    found = [*own, shutil.which(f"python{version}"), *map(str, kept.glob(f"{version}.*/bin/python"))]
    works = (path for path in found if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode)
    return next(works, None)


@pytest.mark.parametrize("version", versions())
def test_the_sources_compile_without_a_warning(version: str, tmp_path: Path) -> None:
    if not (python := interpreter(version)):
        pytest.skip(f"no Python {version} here")
    sources = [str(ROOT / name) for name in ("wgan_cli", "tests", "examples", "setup.py")]
    command = [python, "-W", "error", "-X", f"pycache_prefix={tmp_path}", "-m", "compileall", "-q", "-f", *sources]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# ---- From Python


def test_importing_the_package_imports_nothing_heavy_and_changes_nothing() -> None:
    script = """if True:
        import gc, os, signal, sys, warnings

        def state():
            handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
            streams = (sys.stdin, sys.stdout, sys.stderr, sys.excepthook, warnings.formatwarning, warnings.showwarning)
            return handlers, streams, list(warnings.filters), gc.get_freeze_count(), gc.isenabled(), dict(os.environ)

        before = state()
        import wgan_cli
        assert state() == before
        heavy = {"torch", "click", "numpy", "PIL"} & sys.modules.keys()
        assert not heavy, heavy
        import wgan_cli.cli
        assert state() == before
        print(wgan_cli.__version__)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.stdout)


def test_a_sample_and_its_scores_from_python(tmp_path: Path) -> None:
    """In a process where each warning is an error, as the documentation has it."""
    path = save(new_run(ema=0.9, latent=5), tmp_path / "ckpt.pt")
    script = """if True:
        import sys
        import wgan_cli
        generator, critic, config = wgan_cli.load(sys.argv[1])
        import torch
        images = generator(torch.randn(16, config.latent))
        scores = critic(images)
        assert images.shape == (16, *config.shape) and -1 <= images.min() and images.max() <= 1
        assert scores.shape == (16,) and scores.isfinite().all() and not scores.requires_grad
        assert not generator.training and not critic.training
        same = wgan_cli.load(sys.argv[2]).generator(torch.zeros(1, 5))
        assert torch.equal(same, generator(torch.zeros(1, 5)))
        raw = wgan_cli.load(sys.argv[2], raw=True).generator
        assert raw.state_dict().keys() == generator.state_dict().keys()
        for wrong, text in (("none.pt", "none.pt: no such file or folder"), (sys.argv[3], "without a ckpt.pt")):
            try:
                wgan_cli.load(wrong)
            except wgan_cli.UsageError as error:
                assert text in str(error), error
            else:
                raise AssertionError(wrong)
    """
    (tmp_path / "empty").mkdir()
    words = [str(path), str(path.parent), str(tmp_path / "empty")]
    done = subprocess.run([sys.executable, "-W", "error", "-c", script, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_averaged_weights_are_taken_unless_raw(tmp_path: Path) -> None:
    import torch

    import wgan_cli

    run = new_run(ema=0.9, latent=5)
    assert run.ema
    for weight in run.generator.parameters():
        torch.nn.init.zeros_(weight)
    path = save(run, tmp_path / "ckpt.pt")
    (averaged, _, _), (raw, _, _) = wgan_cli.load(path), wgan_cli.load(path, raw=True)
    assert not any(weight.any() for weight in raw.parameters())
    assert any(weight.any() for weight in averaged.parameters())
    assert not any(weight.requires_grad for weight in averaged.parameters())
