"""Every error this package raises on purpose, in one family.

Holds the exception classes; does not hold messages that depend on a caller's data. Each message a
caller writes says what to do. `is_retryable` separates "the database is away" from "this can never
work", so that a worker's retry loop needs one `except` and one look.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RetrainError(Exception):
    """Base of all errors raised on purpose.

    Attributes
    ----------
    is_retryable : bool
        True when the same call may succeed later without a change.
    exit_code : int
        What the command line ends with when this error reaches it.
    """

    is_retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class ConfigError(RetrainError):
    """The configuration cannot be used.

    Parameters
    ----------
    problems : list of str
        Every problem found, one line each, with its key path and value.
    source : str
        Where the configuration came from.
    """

    exit_code = 2

    def __init__(self, problems: list[str], source: str = "configuration") -> None:
        self.problems = list(problems)
        self.source = source
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{source} has {count}:\n" + "\n".join(f"  - {line}" for line in self.problems))


class SchemaError(RetrainError):
    """A value does not fit the feature schema or the outcome format.

    Parameters
    ----------
    field : str
        The field that does not fit.
    message : str
        What is wrong and what would be right.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(f"{field}: {message}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, self.message)


class UsageError(RetrainError):
    """The call's arguments cannot be used as they are."""

    exit_code = 2


class StoreUnavailable(RetrainError):
    """The database or the file store could not be reached; nothing was stored. Try again."""

    is_retryable = True
    exit_code = 3


class StoreOutdated(RetrainError):
    """The database has no schema, or another one than this version needs."""

    exit_code = 3


class NoModelError(RetrainError):
    """No version serves production and no default action is configured."""


class TransitionRefused(RetrainError):
    """The state machine does not allow this change, or another actor made a change first."""


class ArtefactRefused(RetrainError):
    """An artefact's bytes do not match the registry, or it fails its self-test."""


class NothingToRollBackTo(RetrainError):
    """No earlier production version is left whose artefact is intact."""


class TrainingImpossible(RetrainError):
    """The data cannot teach a model: the message says which property is missing."""
