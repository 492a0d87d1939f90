"""Errors that a user can cause and fix. Each is one line: what, where, expected, got and the remedy."""


class GankdError(Exception):
    """Base of every error that the command line prints as one line, with exit code 2 and no traceback."""


class ConfigError(GankdError):
    """A setting is missing, misspelt or out of range."""


class DataError(GankdError):
    """Images or labels cannot be used."""


class ModelError(GankdError):
    """A network cannot be found or does not fit the task."""


class CheckpointError(GankdError):
    """A stored file is missing, truncated, of another version, or of a kind that is never loaded."""


class TrainingError(GankdError):
    """Training diverged or collapsed; the last good checkpoint is kept."""


class RunError(GankdError):
    """A run folder cannot be used: another process uses it, or it cannot be written to."""


class LostProcessError(RunError):
    """Another process that computes the same run has ended or cannot be reached."""


class TrustError(GankdError):
    """A file names code that the user did not name and does not trust."""
