"""The ledger's tables, and how to reach the database that holds them.

`counters`: what was spent and what is set aside, a row a scope, name and window. `reservations`: what requests in
flight may still cost, with the counters that each was entered in, so that it is settled where it was reserved even if
the limits or the window have changed since. `owners`: which of a service's routers is the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    false,
    make_url,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from apportion.router.errors import ConfigurationError, LedgerError

BUSY_TIMEOUT_S = 5.0  # for a lock that another process holds, or a connection
STATEMENT_TIMEOUT_S = 10.0
ATTEMPTS = 3
_COLLISIONS = {"40001", "40P01"}  # PostgreSQL: serialization failure, deadlock
READS = "apportion_reads"  # option of a connection that writes nothing and is to hold up nobody who does
# SQLite counts ids up by itself only in a column of exactly INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")

T = TypeVar("T")

metadata = MetaData()

counters = Table(
    "apportion_counters",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("scope", String(16), nullable=False),
    Column("name", String(256), nullable=False),
    Column("span", String(16), nullable=False),
    Column("starts_s", Float(53), nullable=False),  # 0 for `total`
    Column("ends_s", Float(53), nullable=True),  # null for `total`
    Column("spent_nano", BigInteger, nullable=False, server_default="0"),
    Column("reserved_nano", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("scope", "name", "span", "starts_s"),
    Index("apportion_counters_ends", "span", "ends_s"),
    sqlite_autoincrement=True,
)

reservations = Table(
    "apportion_reservations",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("expires_s", Float(53), nullable=False),
    Column("charged", Boolean, nullable=False, server_default=false()),
    Column("counters", Text, nullable=False),
    Index("apportion_reservations_expiry", "charged", "expires_s"),
)

owners = Table(
    "apportion_owners",
    metadata,
    Column("name", String(256), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
)


def backend(url: str) -> str:
    """The kind of database that a URL names, `sqlite` or another; empty where it is no URL."""
    try:
        return make_url(url).get_backend_name()
    except ArgumentError:
        return ""


def has_password(url: str) -> bool:
    """Whether a URL says a password."""
    try:
        return make_url(url).password is not None
    except ArgumentError:
        return False


def connect(url: str, *, power_safe: bool = False, more: MetaData | None = None) -> Engine:
    """The database with its tables; both are made if they are not there.

    Args:
        url: SQLAlchemy's, e.g. `sqlite:////var/lib/apportion/budget.db` or `postgresql+psycopg://user@host/name`.
        power_safe: SQLite waits for the disk at each commit. Without it, a kill of any process loses nothing, but a
            power failure may lose the last commits.
        more: tables that are to be there beside the ledger's.

    Raises:
        ConfigurationError: the URL, its driver or the database's folder is wrong or missing.
    """
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise ConfigurationError(f"budget.database is {shown}; give a sqlite or a postgresql URL")
        engine = create_engine(parsed, **_options(parsed.get_backend_name()))
    except (ArgumentError, NoSuchModuleError):
        # The URL itself is not repeated: it may hold a password.
        raise ConfigurationError(
            "budget.database is no database URL; write sqlite:////path/to/file or postgresql+psycopg://user@host/name"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"budget.database needs the module {error.name}; install apportion[postgres], or that driver"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed.database, shown)
        _tune_sqlite(engine, power_safe)
    try:
        make_tables(engine, metadata)
        if more is not None:
            make_tables(engine, more)
    except OperationalError as error:
        engine.dispose()
        said = str(error.orig).replace(str(parsed.password or shown), "***")
        raise ConfigurationError(
            f"budget.database {shown} cannot be opened ({said}); correct the URL or start the database"
        ) from None
    return engine


def transact(engine: Engine, work: Callable[[Connection], T], failed: Callable[[], None] = lambda: None) -> T:
    """Does the work in one transaction; again from its start where it collided with another and was given up.

    Args:
        failed: is told of each attempt that came to nothing.

    Raises:
        SQLAlchemyError: the database does not answer, or it collided too often.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            with engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            failed()
            if not left or getattr(getattr(error, "orig", None), "sqlstate", None) not in _COLLISIONS:
                raise
    raise AssertionError("unreachable")


def unusable(what: str, error: SQLAlchemyError) -> LedgerError:
    """What is said where a database fails: the driver's own words may hold the statement's values."""
    cause = type(getattr(error, "orig", None) or error).__name__
    return LedgerError(f"{what} does not answer ({cause}); try again in some seconds")


def make_tables(engine: Engine, tables: MetaData) -> None:
    """Makes those that are not there, and indexes that a table of an earlier version lacks."""
    try:
        _create(engine, tables)
    except SQLAlchemyError:
        # Another process may have made them between our look and our attempt; if not, this fails again.
        _create(engine, tables)


def _create(engine: Engine, tables: MetaData) -> None:
    tables.create_all(engine)
    for table in tables.tables.values():
        for index in table.indexes:
            index.create(engine, checkfirst=True)


def _options(backend: str) -> dict[str, Any]:
    if backend == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}}
    within = f"-c statement_timeout={1e3 * STATEMENT_TIMEOUT_S:.0f} -c lock_timeout={1e3 * BUSY_TIMEOUT_S:.0f}"
    arguments = {"connect_timeout": int(BUSY_TIMEOUT_S), "options": within}
    return {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 2, "connect_args": arguments}


def _check_file(database: str | None, shown: str) -> None:
    if not database or database == ":memory:" or "mode=memory" in database:
        raise ConfigurationError(f"budget.database {shown} forgets everything at once; name a file")
    folder = Path(database.removeprefix("file:")).resolve().parent
    if not folder.is_dir():
        raise ConfigurationError(f"budget.database {shown}: there is no folder {folder}; make it first")


def _tune_sqlite(engine: Engine, power_safe: bool) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not when the driver thinks so
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if power_safe else 'NORMAL'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        # The write lock at once: what is read stays true until the commit, in every process.
        reads = connection.get_execution_options().get(READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
