"""What a driver's error means for the caller: try again, mend the URL, or bring the schema up to date.

Holds the translation into this package's errors; does not hold connections (`database.py`).

Worth a retry (`StoreUnavailable`): no connection, a connection that broke, a server that stops or recovers, a lock held
for too long, a full disk, a file or server that only reads for now. Not worth one: a schema that does not fit
(`StoreOutdated`), and an address, user, password or right that the server refuses (`ConfigError`): only a person heals
that, and a worker that went on trying would do so for ever, or have its account locked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from retrain_assets.errors import ConfigError, RetrainError, StoreOutdated, StoreUnavailable

FORM = "sqlite:///FILE or postgresql://..."
"""What a database URL looks like."""

_ABSENT_TABLE = re.compile(r"no such (?:table|column)|has no column named|undefined_?(?:table|column)", re.IGNORECASE)
_UNREADABLE = re.compile(r"file is not a database|disk image is malformed", re.IGNORECASE)
# A refused connection has no SQLSTATE: libpq tells it in words only.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role \".*\" (?:does not exist|is not permitted)"
    r"|database \".*\" does not exist",
    re.IGNORECASE,
)
_FORBIDDEN_STATES = ("28", "3D000", "42501")
"""SQLSTATEs of refused users, of databases that are not there and of rights that are missing."""

_DEADLOCK = "40P01"

# The user in front of a password: also where the scheme, its colon or a slash is missing.
_USER = re.compile(r"^([a-z][a-z0-9+.-]*:?/+[^:@?\s]*|[^:/@?\s]*(?=:(?!/))):.*@", re.IGNORECASE | re.DOTALL)
_SECRET = re.compile(r"([?&][^=&#]*(?:password|passwd|pwd)[^=&#]*=)[^&#]*", re.IGNORECASE)


def masked(url: str) -> str:
    """A database URL, however wrong, with `***` for its user's password and for those of its query.

    A password may hold `:`, `/`, `?` and `@` that nobody escaped, so everything up to the last `@` is taken for it.
    """
    return _USER.sub(r"\1:***@", _SECRET.sub(r"\1***", url))


def is_deadlock(error: BaseException) -> bool:
    """Whether the server ended a transaction because it and another one waited for each other."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) == _DEADLOCK


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn driver errors into errors that say whether trying again can help.

    Parameters
    ----------
    place : str
        The database as messages name it, without a password.

    Raises
    ------
    StoreUnavailable
        Trying again may help.
    StoreOutdated
        The schema does not fit, or the file is no database.
    ConfigError
        The server refuses the user, the password or the name of the database.
    IntegrityError, DataError, ProgrammingError
        As they are: the caller knows what they mean, or it is a fault of this package.
    """
    try:
        yield
    except PoolTimeoutError as error:
        message = f"every connection to {place} is in use by this process; nothing was stored, try again"
        raise StoreUnavailable(message) from error
    except DBAPIError as error:
        if (meaning := _meaning(error, place)) is None:
            raise
        raise meaning from error


@contextmanager
def commit_translated(place: str, *, is_certain: bool) -> Iterator[None]:
    """The same around a commit: a connection that breaks then leaves open whether it was done.

    Parameters
    ----------
    place : str
    is_certain : bool
        A commit that fails was not done; so with SQLite.
    """
    try:
        yield
    except DBAPIError as error:
        if is_certain or not error.connection_invalidated:
            raise
        message = f"{place} went away during the commit: {detail_of(error)}; it may have been stored or not, try again"
        raise StoreUnavailable(message) from error


def detail_of(error: DBAPIError) -> str:
    """What the driver says, in one line."""
    return next(iter(str(error.orig or error).strip().splitlines()), type(error).__name__)


def _meaning(error: DBAPIError, place: str) -> RetrainError | None:
    detail = detail_of(error)
    kind = type(error.orig).__name__ if error.orig else ""
    state = getattr(error.orig, "sqlstate", None) or ""
    if _ABSENT_TABLE.search(f"{kind} {detail}"):
        return StoreOutdated(
            f"the database has another schema than this version needs ({detail}); run `retrain doctor --fix`"
        )
    if _UNREADABLE.search(detail):
        return StoreOutdated(f"the database cannot be read ({detail}); restore it from a copy, or name another one")
    if state.startswith(_FORBIDDEN_STATES) or _REFUSED.search(detail):
        hint = "correct storage.database_url or RETRAIN_DATABASE_URL, or the rights on the server"
        return ConfigError([f"{place} refuses this user: {detail}; {hint}"], "the database's address")
    if isinstance(error, IntegrityError | DataError | ProgrammingError) and not error.connection_invalidated:
        return None
    return StoreUnavailable(f"the database cannot be used now: {detail}; nothing was stored, try again ({place})")
