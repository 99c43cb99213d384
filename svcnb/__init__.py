"""Singing voice conversion in notebooks: so-vits-svc, RVC and GPT-SoVITS over one toolbox.

Importing this package reads no file, opens no device and changes no setting.
"""

__version__ = "0.1.0"


class SvcError(Exception):
    """An error that the user can fix: the message says what was found, what was expected, what to do."""


class MissingExtra(SvcError):
    """An optional package is not installed; the message names the pip command."""
