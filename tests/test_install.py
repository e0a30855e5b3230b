"""Installing: the kernels are built where they can be; what is broken does not keep the package from being there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")  # as pyproject.toml has it for builds
ROOT = Path(__file__).parent.parent
FAULTS = {
    "nvcc": "not built: CalledProcessError: ",
    "setuptools of torch": "not built: ImportError: cannot import name 'build_everything'",
    "version of torch": "not built: KeyError: '__version__'",
    "no toolkit": "not built: no CUDA 13.0 toolkit ",
}


def build(fault: str, tmp_path: Path, forced: bool) -> tuple[subprocess.CompletedProcess[str], Path]:
    """`setup.py build_py` where it sees a CUDA torch and a toolkit, one of them broken."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    leave = shutil.ignore_patterns("__pycache__", "_build.json", "*.so")
    shutil.copytree(ROOT / "wgan_cli", tmp_path / "wgan_cli", ignore=leave)
    files = {
        "seen/torch/__init__.py": "",
        "seen/torch/version.py": "" if fault == "version of torch" else "__version__, cuda = '2.13.0', '13.0'",
        "seen/torch/utils/__init__.py": "",
        "seen/torch/utils/cpp_extension.py": "from setuptools import build_everything",
        "home/include/cuda_runtime.h": "",
        "home/bin/nvcc": "#!/bin/sh\n" + ("exit 1\n" if fault == "nvcc" else "echo compute_80\n"),
    }
    for name, content in files.items():
        if not (fault == "no toolkit" and name == "home/bin/nvcc"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "seen"), "CUDA_HOME": str(tmp_path / "home")}
    environment |= {"WGAN_CUDA": "1"} if forced else {}
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True), tmp_path / "built"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_broken_leaves_a_package_without_kernels(fault: str, tmp_path: Path) -> None:
    if fault == "no toolkit" and (shutil.which("nvcc") or list(Path("/usr/local").glob("cuda*"))):
        pytest.skip("a toolkit is installed here")
    done, built = build(fault, tmp_path, forced=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((built / "wgan_cli/_build.json").read_text())["kernels"].startswith(FAULTS[fault])
    assert (built / "wgan_cli/cli/train.py").exists() and (built / "wgan_cli/py.typed").exists()


def test_kernels_that_were_asked_for_are_an_error(tmp_path: Path) -> None:
    done, built = build("nvcc", tmp_path, forced=True)
    assert done.returncode == 1 and not built.exists()
    assert "WGAN_CUDA=1, but the kernels cannot be built: CalledProcessError: " in done.stderr
