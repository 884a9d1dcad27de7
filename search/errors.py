"""The one exception that means: what the user gave cannot be used."""


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
