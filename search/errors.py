"""The one exception that means: what the user gave cannot be used."""


class InputError(ValueError):
    """Bad input, said in one line that names the file, row or key and what is allowed.

    Modules derive their own named exceptions from it; the command line prints the line and exits with 2.
    """
