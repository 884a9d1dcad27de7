"""What errors mean: bad input, for which there is one exception, and a full disk."""

import errno
import os
from pathlib import Path


class InputError(ValueError):
    """Bad input, said in one line that names the file, row or key and what is allowed.

    Modules derive their own named exceptions from it; the command line prints the line and exits with 2.

    Attributes:
        final: a new attempt would end the same; so says what a pool of workers makes of it.
    """

    final = True


class Refused(InputError):
    """A worker found bad input; the line is the worker's."""


def refuse(error: str | None) -> None:
    """Raise what a worker's error says if a new attempt would end the same; other errors are left to the caller.

    Raises:
        Refused: it would.
    """
    if getattr(error, "final", False):
        raise Refused(str(error))


def is_disk_full(error: object) -> bool:
    """Return whether an error says that a disk, or a quota on it, has no room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(place: Path | str) -> OSError:
    """Return the error of a full disk, to raise where it is known of another process; `place` lies on the disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
