"""The tests that compute, with the arithmetic of other processors than this one: `make test-processors`.

Torch, oneDNN and MKL choose their code by the processor, and may be told to choose that of an older one. Each choice
adds in an order of its own, and so does each number of threads. What a test claims has to hold in every order.

    python tests/processors.py [--other] [word for pytest ...]

--other: only one set below the machine's own, in one thread. Words for pytest name the tests instead of those below.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

SETS = {  # by what torch calls them, from the oldest
    "DEFAULT": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
VARIABLES = {variable for variables in SETS.values() for variable in variables}
# These read files, end processes, look at sources, or compute with no torch: a processor's sums are no part of them.
NO_SUMS = (
    "config console cuda_build data docs emulator examples gpu install platforms pool run safety seen static".split()
)
HERE = Path(__file__).parent


def run(name: str, threads: int, words: list[str]) -> tuple[int, str]:
    """Exit code and last line of pytest.

    A thread that waits for another gives its processor away: beside other work a waiting one that spins takes for
    minutes what the other needs.
    """
    plain = {variable: value for variable, value in os.environ.items() if variable not in VARIABLES}
    command = [str(Path(sys.executable).with_name("pytest")), "-q", "-p", "no:cacheprovider", *words]
    last = ""
    environment = {**plain, **SETS[name], "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last


def main(words: list[str]) -> int:
    own = torch.backends.cpu.get_cpu_capability()
    # A newer set than the machine's own ends in an illegal instruction.
    able = list(SETS)[: list(SETS).index(own) + 1] if own in SETS else ["DEFAULT"]
    pairs = [(name, threads) for name in able for threads in (1, 2)]
    if words[:1] == ["--other"]:
        pairs, words = [(able[-2] if len(able) > 1 else able[0], 1)], words[1:]
    words = words or [str(HERE), *(f"--ignore={HERE}/test_{name}.py" for name in NO_SUMS)]
    ends = []
    for name, threads in pairs:
        print(f"==== {name}, {threads} threads", flush=True)
        code, last = run(name, threads, words)
        ends.append((name, threads, code, last))
    print(f"\nset      threads  end  (this machine: {own})")
    for name, threads, code, last in ends:
        print(f"{name:8} {threads:7}  {code:3}  {last}")
    return int(any(code for *_, code, _ in ends))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
