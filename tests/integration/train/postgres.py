"""A private Postgres cluster from Debian's package `postgresql`, in its own folder, reached by a Unix socket there."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

OPTIONS = "-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"


def binaries() -> Path | None:
    """The folder of the newest version's commands; None without Postgres."""
    found = Path("/usr/lib/postgresql").glob("*/bin")
    return max(found, key=lambda folder: float(folder.parent.name), default=None)


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Create and start a cluster, and remove it afterwards; without Postgres the test is skipped.

    Yields:
        the SQLAlchemy URI of its database.
    """
    place = binaries()
    if place is None:
        pytest.skip("there is no Postgres: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        as_user = []
        if os.geteuid() == 0:  # Postgres refuses to run as root
            shutil.chown(folder, "postgres")
            as_user = ["runuser", "--user", "postgres", "--"]

        def run(command: str, *arguments: str) -> None:
            subprocess.run(
                [*as_user, str(place / command), "--pgdata", f"{folder}/data", *arguments],
                check=True, cwd=folder, stdout=subprocess.DEVNULL,
            )  # fmt: skip

        run("initdb", "--username", "mlflow", "--auth", "trust", "--no-sync")
        run("pg_ctl", "start", "--wait", "--log", f"{folder}/log", "--options", OPTIONS.format(folder=folder))
        try:
            yield f"postgresql+pg8000://mlflow@/postgres?unix_sock={folder}/.s.PGSQL.5432"
        finally:
            run("pg_ctl", "stop", "--mode", "immediate")
