"""The SQLAlchemy pool of the examples, and a note in the database of every use of a connection.

A connection is named by what the database itself knows of it: PostgreSQL by its backend's pid,
SQLite (which has no server) by a temporary table, which exists in that one connection only.
"""

import os
import uuid

from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import QueuePool

engine = create_engine(
    os.environ.get("DATABASE_URL", "sqlite:///example.db"), poolclass=QueuePool, pool_size=1
)
ON_SQLITE = engine.dialect.name == "sqlite"
CONNECTION = "SELECT name FROM temp.connection" if ON_SQLITE else "SELECT pg_backend_pid()"


if ON_SQLITE:

    @event.listens_for(engine, "connect")
    def name_connection(connection, _):
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("CREATE TEMPORARY TABLE connection (name TEXT)")
        connection.execute("INSERT INTO temp.connection VALUES (?)", (uuid.uuid4().hex,))
        connection.commit()


def note_use():
    """Write into the database that this process uses this connection; return its name."""
    with engine.begin() as connection:
        name = str(connection.execute(text(CONNECTION)).scalar())
        connection.execute(
            text("INSERT INTO uses VALUES (:name, :process)"),
            {"name": name, "process": os.getpid()},
        )
    return name


def shared_connections():
    """The connections that more than one process has used, as the database has it."""
    query = "SELECT name FROM uses GROUP BY name HAVING COUNT(DISTINCT process) > 1"
    with engine.begin() as connection:
        return [row[0] for row in connection.execute(text(query))]


# What many apps do while they are loaded, and what puts a connection into the pool of the master.
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE IF NOT EXISTS uses (name VARCHAR(40), process INTEGER)"))
