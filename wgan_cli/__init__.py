"""Train a Wasserstein GAN on images, sample from it, and rank images by its critic.

The errors that end a command stand here, so that every module can raise them without importing another.
"""

__version__ = "0.1.0"


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


class StoppedError(WganError):
    """Training was asked to stop and has saved: 75 by `--time-limit`, 128 + n by signal n."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
