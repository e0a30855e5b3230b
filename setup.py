"""Everything that is fixed stands in pyproject.toml; what depends on the machine is decided here: the CUDA kernels.

They are built where a CUDA torch and its toolkit can be seen, that is by `pip install --no-build-isolation .`. All else
gives the complete package without them. What was built, or why it was not, is left in wgan_cli/_build.json for
`wgan info`, since pip hides what a build says. WGAN_CUDA=0 skips the kernels, WGAN_CUDA=1 makes their lack an error;
TORCH_CUDA_ARCH_LIST names the GPUs to build for (default: all below), MAX_JOBS the compilers at work at once.
"""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

ARCHITECTURES = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]  # the last one as PTX too, for what comes after it
FLOOR = (2, 10)  # of torch; csrc/binding.cpp says why


class NoKernelsError(Exception):
    """Why the kernels cannot be built."""


def seen_torch() -> tuple[str, str]:
    """The version of the torch that this build can see, and its CUDA's. Found out without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise NoKernelsError("no torch in sight of the build; `pip install --no-build-isolation .` lets it see one")
    facts = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    version, cuda = str(facts["__version__"]), facts.get("cuda")
    if not cuda:
        raise NoKernelsError(f"torch {version} is no CUDA build")
    if tuple(int(part) for part in version.split(".")[:2]) < FLOOR:
        raise NoKernelsError(f"torch {version} is older than {FLOOR[0]}.{FLOOR[1]}")
    return version, str(cuda)


def cuda_homes(cuda: str) -> Iterator[Path]:
    """Where a CUDA toolkit may stand, best first. torch's own guess fails where nvcc in PATH is a wrapper script."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name])
    yield Path(f"/usr/local/cuda-{cuda}")
    if nvcc := shutil.which("nvcc"):
        yield Path(nvcc).resolve().parent.parent
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)


def toolkit(cuda: str) -> Path:
    for home in cuda_homes(cuda):
        if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime.h").exists():
            return home
    raise NoKernelsError(
        f"no CUDA {cuda} toolkit (bin/nvcc and include/cuda_runtime.h) in CUDA_HOME, beside nvcc or in /usr/local/cuda*"
    )


def architectures(home: Path) -> str:
    """TORCH_CUDA_ARCH_LIST, or all of ours that this nvcc knows."""
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return chosen
    listed = subprocess.run([home / "bin/nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = [arch for arch in ARCHITECTURES if f"compute_{arch.replace('.', '')}" in listed.split()]
    return ";".join(known) + "+PTX"


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def write_note(command: Any, kernels: str) -> None:
    """Keep `kernels` for `wgan info`, beside the modules that `command` builds or, for an editable install, uses."""
    inplace = getattr(command, "editable_mode", False) or getattr(command, "inplace", False)
    folder = Path("wgan_cli") if inplace else Path(command.build_lib, "wgan_cli")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build.json").write_text(json.dumps({"kernels": kernels}) + "\n")
    print(f"wgan: CUDA kernels {kernels}", file=sys.stderr)


def extension(version: str, cuda: str) -> dict[str, Any]:
    """The arguments of setup() that build the kernels."""
    home = toolkit(cuda)
    os.environ["CUDA_HOME"] = str(home)  # torch reads both when it is imported and when it builds
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures(home)
    from torch.utils.cpp_extension import BuildExtension, CUDAExtension

    built = f"built for compute capability {os.environ['TORCH_CUDA_ARCH_LIST'].replace(';', ' ')}, CUDA {cuda}"

    class Build(BuildExtension):  # type: ignore[misc]
        def build_extensions(self) -> None:
            try:
                super().build_extensions()
                write_note(self, f"{built}, with torch {version}")
            except (Exception, SystemExit) as error:
                if FORCED:
                    raise
                for ext in self.extensions:  # that an earlier build may have left
                    Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
                self.extensions = []
                said = first_line(error)
                write_note(self, f"not built: compilation failed ({said}); with WGAN_CUDA=1 pip shows all of it")

    module = CUDAExtension(
        "wgan_cli._C",
        ["csrc/binding.cpp", "csrc/adam.cu", "csrc/clamp.cu", "csrc/rmsprop.cu", "csrc/penalty.cu"],
        depends=[str(path) for path in sorted(Path("csrc").glob("*.*h"))],
        extra_compile_args={"cxx": ["-O2", "-g0"], "nvcc": ["-O3"]},
        py_limited_api=True,
    )
    return {
        "ext_modules": [module],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},  # the floor of requires-python
    }


asked = os.environ.get("WGAN_CUDA", "")
if asked not in ("", "0", "1"):
    sys.exit(f"WGAN_CUDA is {asked!r}: must be 0 or 1")
FORCED = asked == "1"

try:
    if asked == "0":
        raise NoKernelsError("WGAN_CUDA=0 when it was installed")
    arguments = extension(*seen_torch())
except Exception as error:  # besides NoKernelsError whatever a broken torch, nvcc or setuptools brings
    said = str(error) if isinstance(error, NoKernelsError) else f"{type(error).__name__}: {first_line(error)}"
    if FORCED:
        sys.exit(f"WGAN_CUDA=1, but the kernels cannot be built: {said}")
    reason = f"not built: {said}"

    class Python(build_py):
        def run(self) -> None:
            super().run()
            write_note(self, reason)

    arguments = {"cmdclass": {"build_py": Python}}

setup(**arguments)
