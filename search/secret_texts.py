"""Texts without the secrets in them: what is written down or shown is read by more people than may know a password."""

import os
import re

_IN_TEXTS = (
    (re.compile(r"://[^\s'\"]*@"), "://***@"),
    (re.compile(r"(?i)\b((?:password|passwd|pwd|token|secret|api_?key)=)[^\s&;'\"]+"), r"\1***"),
)
_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|PRIVATE_KEY|CREDENTIAL|ACCESS_KEY|API_?KEY", re.IGNORECASE)
_PLACES = re.compile(r"(_PATH|_FILE|_DIR|_NAME|_URI|_URL|_MODE)$", re.IGNORECASE)
"""Variables of such names say where a secret is kept, and not what it is."""

_SHORTEST = 6
"""Shorter values would be found in words that are no secrets: a password of one letter cannot be kept."""


def without_secrets(text: str) -> str:
    """Return the text with user:password@ of addresses, values of password=.. and those of the environment blotted out.

    Those of the environment are the values of variables that are called like secrets, as AWS_SECRET_ACCESS_KEY.
    """
    for value in _of_the_environment():
        text = text.replace(value, "***")
    for pattern, instead in _IN_TEXTS:
        text = pattern.sub(instead, text)
    return text


def has_password(address: str) -> bool:
    """Return whether a URL holds a password, or a token in the place of a user."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return False
    if _IN_TEXTS[1][0].search(rest):
        return True
    # A password may have an @ in it, and even a slash that should have been escaped.
    user, at, _ = rest.rpartition("@")
    if not at:
        return False
    # The user alone is no secret of a database; https://TOKEN@host is one.
    return ":" in user or scheme.lower() in ("http", "https")


def _of_the_environment() -> list[str]:
    """Return the values of secrets, the longest first: one may be a part of another."""
    found = {
        value
        for name, value in os.environ.items()
        if _NAMES.search(name) and not _PLACES.search(name) and len(value) >= _SHORTEST
    }
    return sorted(found, key=len, reverse=True)
