"""Errors that a user can mend, each with the exit code that an orchestrator sees; shown without a traceback."""


class CasprError(Exception):
    """A failure with a clear message: which table, file or key; what was expected; what was found; what to do."""

    exit_code = 1


class ConfigError(CasprError):
    """Wrong usage or configuration; nothing was run."""

    exit_code = 2


class GateError(CasprError):
    """A check declared as `stop` failed; the last good tables are still served."""

    exit_code = 3


class SchemaError(GateError):
    """The raw files do not have the declared columns, or cannot be read together; nothing was written."""


class DriftAlert(CasprError):  # noqa: N818  (the run did not fail)
    """The run was published; its vectors moved further than the configuration allows."""

    exit_code = 4


class UnsafeError(CasprError):
    """Refused because going on could misread or destroy data (a changed checkpoint, another vocabulary, a pickle)."""

    exit_code = 5


class TemporaryError(CasprError):
    """Another run was in the way; the same command again will do."""

    exit_code = 75
