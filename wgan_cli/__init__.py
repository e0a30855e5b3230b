"""Train a Wasserstein GAN on images, sample from it, and rank images by its critic.

The errors that end a command stand here, so that every module can raise them without importing another; and `load`,
for use from Python. Nothing here imports torch before a checkpoint is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from .config import TrainConfig

__version__ = "0.1.0"

# Of every command. The help and docs/scripts.md have these very words.
EXIT_CODES = {
    0: "done",
    1: "another error",
    2: "wrong usage: a flag or a path",
    3: "bad data, or a bad checkpoint",
    4: "training diverged; the last good checkpoint is kept",
    75: "stopped by --time-limit after saving; the same command goes on",
    129: "stopped by SIGHUP after saving; the same command goes on",
    130: "stopped by SIGINT after saving; the same command goes on",
    141: "the reader of standard output is gone",
    143: "stopped by SIGTERM after saving; the same command goes on",
}
TIME_LIMIT, PIPE_CLOSED = 75, 141  # EX_TEMPFAIL; 128 + SIGPIPE, as a shell reports it


class WganError(Exception):
    """A failure to be shown to the user in a line or two: what happened, the value, what to do."""

    exit_code = 1


class UsageError(WganError):
    """A flag or a path that cannot work, found before anything slow has started."""

    exit_code = 2


class DataError(WganError):
    """Images, arrays or a checkpoint that cannot be used."""

    exit_code = 3


class DivergedError(WganError):
    """A loss or a weight became NaN or infinite; the last good checkpoint is untouched."""

    exit_code = 4
    step = 0  # that of the loss or the weight


class StoppedError(WganError):
    """Training was asked to stop and has saved: 75 by `--time-limit`, 128 + n by signal n."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def reason(error: Exception, line: int = 0) -> str:
    """A line of what a library says: its first, below which torch adds a stack at times; 300 characters at most."""
    return (str(error).strip() or type(error).__name__).split("\n")[line].strip()[:300]


class Networks(NamedTuple):
    """A trained generator and critic, in evaluation mode and without gradients, and the settings of their run.

    Where the run knows classes, config.classes, both take their numbers [N] as a second argument.
    """

    generator: nn.Module  # normal latents [N, config.latent] -> samples [N, *config.shape], images in [-1, 1]
    critic: nn.Module  # samples [N, *config.shape] -> scores [N]: the higher, the more real
    config: TrainConfig


def load(path: str | Path, device: str = "cpu", raw: bool = False) -> Networks:
    """The networks of a checkpoint, or of a run folder's newest one. Nothing in the file is executed.

    The generator has averaged weights if the run kept them, those of the last step if `raw`. device: cpu, cuda or auto.
    Raises UsageError for a path or a device that is not there, DataError for what is no checkpoint of wgan.
    """
    from .checkpoint import networks
    from .files import newest_checkpoint

    if not (path := Path(path)).exists():
        raise UsageError(f"{path}: no such file or folder")
    (generator, critic), config, _ = networks(newest_checkpoint(path), ("generator", "critic"), device, raw)
    return Networks(generator, critic, config)
