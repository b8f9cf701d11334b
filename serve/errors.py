"""What goes wrong in serving. Only the standard library: `archive`, which training imports, must stay light."""


class ServeError(RuntimeError):
    """The server cannot do what was asked; the message says why and what to do, in one line. Exit code 1."""


class UsageError(ServeError):
    """An option does not fit this machine or these runs. Exit code 2."""


class ArchiveError(ServeError):
    """There is no archive to be made of this, or it is broken."""
