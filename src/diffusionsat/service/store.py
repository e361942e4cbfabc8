"""The queue: jobs and uploads in SQLite, so that neither is lost or done twice when the machine dies.

A job is ``accepted``, then ``running``, then one of ``successful``, ``failed`` and ``dismissed``, for good.
Every change is one transaction that is on the disk before it is told to anybody.
"""

import datetime
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionsat.service.limits import EXCEPTIONS, Problem

FINAL = ("successful", "failed", "dismissed")
_TABLES = """
create table if not exists jobs (
    number integer primary key autoincrement, id text unique not null, process text not null,
    inputs text not null, response text not null, alike text, status text not null, message text not null,
    created text not null, started text, finished text, updated text not null,
    attempts integer not null default 0, bytes integer not null default 0
);
create index if not exists by_status on jobs (status, number);
create table if not exists uploads (
    number integer primary key autoincrement, id text unique not null, created text not null,
    bytes integer not null, about text not null
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job as it is stored; times are RFC 3339, bytes those of its results."""

    number: int
    id: str
    process: str
    inputs: dict[str, Any]
    response: str
    alike: str | None
    status: str
    message: str
    created: str
    started: str | None
    finished: str | None
    updated: str
    attempts: int
    bytes: int


class Store:
    """Jobs and uploads, for any number of threads of one process.

    Args:
        path: Of the database.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._base.row_factory = sqlite3.Row
        with self._lock:
            self._base.execute("pragma journal_mode = wal")
            self._base.execute("pragma synchronous = full")
            self._base.executescript(_TABLES)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._base.close()

    def add(
        self, process: str, inputs: dict[str, Any], alike: str | None, most: int, response: str, wait_s: int
    ) -> Row:
        """Put a job at the end of the queue.

        Args:
            process: What to do.
            inputs: With what.
            alike: Equal for jobs that can be done together; None is alone.
            most: Jobs that may wait or run.
            response: ``raw`` or ``document``.
            wait_s: What is told to whoever finds the queue full, seconds.

        Raises:
            Problem: If the queue is full.
        """
        now, name = _now(), secrets.token_hex(8)
        with self._lock:
            waiting = self.waiting()
            if waiting >= most:
                raise Problem(
                    429,
                    f"The queue is full: {waiting} jobs wait or run, and at most {most} may. Come again in "
                    f"{wait_s} s.",
                    {"Retry-After": str(wait_s)},
                )
            self._base.execute(
                "insert into jobs (id, process, inputs, response, alike, status, message, created, updated)"
                " values (?, ?, ?, ?, ?, 'accepted', 'waiting', ?, ?)",
                (name, process, json.dumps(inputs), response, alike, now, now),
            )
            return self.job(name)

    def waiting(self) -> int:
        """Jobs that wait or run."""
        return self._one("select count(*) from jobs where status in ('accepted', 'running')")[0]

    def job(self, name: str) -> Row:
        """A job.

        Raises:
            Problem: If there is none of the name.
        """
        found = self._one("select * from jobs where id = ?", name)
        if found is None:
            detail = f"There is no job {name!r}. GET /jobs lists those that there are."
            raise Problem(404, detail, kind=f"{EXCEPTIONS}no-such-job")
        return _row(found)

    def jobs(
        self, limit: int = -1, offset: int = 0, statuses: Sequence[str] = (), processes: Sequence[str] = ()
    ) -> list[Row]:
        """Jobs, newest first, perhaps only those of some statuses and processes."""
        clauses, values = [], []
        for column, allowed in (("status", statuses), ("process", processes)):
            if allowed:
                clauses.append(f"{column} in ({', '.join('?' * len(allowed))})")
                values += allowed
        where = f"where {' and '.join(clauses)}" if clauses else ""
        with self._lock:
            found = self._base.execute(
                f"select * from jobs {where} order by number desc limit ? offset ?", (*values, limit, offset)
            ).fetchall()
        return [_row(row) for row in found]

    def finished(self) -> list[tuple[str, str, str, int]]:
        """Time, status, id and bytes of all jobs that are done, oldest first."""
        with self._lock:
            found = self._base.execute(
                "select finished, status, id, bytes from jobs where status not in ('accepted', 'running')"
                " order by finished"
            ).fetchall()
        return [tuple(row) for row in found]

    def take(self, together: Callable[[Row], int]) -> list[Row]:
        """The job that has waited longest, now running, and those like it that can be done with it.

        A job that was running when the process died comes alone: it may be what made it die.

        Args:
            together: How many like a job are done together.
        """
        with self._lock:
            first = self._one("select * from jobs where status = 'accepted' order by number limit 1")
            if first is None:
                return []
            rows = [first]
            if first["alike"] is not None and not first["attempts"]:
                rows = self._base.execute(
                    "select * from jobs where status = 'accepted' and alike = ? and attempts = 0"
                    " order by number limit ?",
                    (first["alike"], together(_row(first))),
                ).fetchall()
            now = _now()
            self._many(
                "update jobs set status = 'running', message = 'running', attempts = attempts + 1,"
                " started = ?, updated = ? where id = ?",
                [(now, now, row["id"]) for row in rows],
            )
            return [self.job(row["id"]) for row in rows]

    def status(self, name: str) -> str | None:
        """Status of a job; None if there is none of the name."""
        found = self._one("select status from jobs where id = ?", name)
        return found and found["status"]

    def finish(self, outcomes: Sequence[tuple[str, str, str, int]]) -> None:
        """Write down how running jobs ended; one that was dismissed meanwhile stays so.

        Args:
            outcomes: Id, status, message and bytes of the results, of each.
        """
        now = _now()
        self._many(
            "update jobs set status = ?, message = ?, bytes = ?, finished = ?, updated = ?"
            " where id = ? and status = 'running'",
            [(status, message, size, now, now, name) for name, status, message, size in outcomes],
        )

    def requeue(self, name: str, *, counted: bool) -> None:
        """Let a running job wait again; an attempt that was stopped on purpose is not counted."""
        self._many(
            "update jobs set status = 'accepted', message = 'waiting', attempts = attempts - ?, updated = ?"
            " where id = ? and status = 'running'",
            [(int(not counted), _now(), name)],
        )

    def dismiss(self, name: str) -> bool:
        """Cancel a job that waits or runs; whether it did."""
        now = _now()
        with self._lock:
            changed = self._base.execute(
                "update jobs set status = 'dismissed', message = 'cancelled', finished = ?, updated = ?"
                " where id = ? and status in ('accepted', 'running')",
                (now, now, name),
            )
            return changed.rowcount == 1

    def forget(self, name: str) -> None:
        """Remove a job that is done."""
        self._many("delete from jobs where id = ? and status not in ('accepted', 'running')", [(name,)])

    def add_upload(self, name: str, size: int, about: dict[str, Any]) -> None:
        """Note an upload whose file is in its place."""
        self._many(
            "insert into uploads (id, created, bytes, about) values (?, ?, ?, ?)",
            [(name, _now(), size, json.dumps(about))],
        )

    def upload(self, name: str) -> dict[str, Any]:
        """What is known of an upload.

        Raises:
            Problem: If there is none of the name.
        """
        found = self._one("select about from uploads where id = ?", name)
        if found is None:
            raise Problem(404, f"There is no upload {name!r}. POST a file to /uploads; old ones are removed.")
        return json.loads(found["about"])

    def uploads(self) -> list[tuple[str, str, int]]:
        """Id, time and bytes of every upload, oldest first."""
        with self._lock:
            found = self._base.execute("select id, created, bytes from uploads order by number").fetchall()
        return [tuple(row) for row in found]

    def forget_upload(self, name: str) -> None:
        """Remove an upload."""
        self._many("delete from uploads where id = ?", [(name,)])

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock:
            return self._base.execute(query, values).fetchone()

    def _many(self, query: str, values: Sequence[Sequence[Any]]) -> None:
        with self._lock:
            self._base.execute("begin immediate")
            try:
                self._base.executemany(query, values)
            except BaseException:
                self._base.execute("rollback")
                raise
            self._base.execute("commit")


def _row(found: sqlite3.Row) -> Row:
    return Row(**dict(found) | {"inputs": json.loads(found["inputs"])})


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
