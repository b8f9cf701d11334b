"""The errors of serving. It imports the standard library only, because training imports it through `archive`."""


class ServeError(RuntimeError):
    """A command failed; the message says in one line why and what to do. Exit code 1."""


class UsageError(ServeError):
    """An option or argument is unusable on this machine or with these runs. Exit code 2."""


class ArchiveError(ServeError):
    """An archive cannot be built from this, or it is damaged."""
