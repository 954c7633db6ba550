"""A real PostgreSQL server from Debian's packages, in a temporary folder, for as long as a test module runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

RUN_VARIABLE = "REMORA_TEST_POSTGRESQL"
USER = "postgres"


def skip_unless_possible() -> Path:
    """The folder of the server's programs; skips the test where they cannot be used."""
    if not os.environ.get(RUN_VARIABLE):
        pytest.skip(f"PostgreSQL is tested by `make test-all` only ({RUN_VARIABLE} is not set)")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not versions:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if os.geteuid() != 0:
        pytest.skip("PostgreSQL is started as its own user, which only root may do")
    return versions[-1].parent


class Server:
    """One server; each test makes a database of its own."""

    def __init__(self, programs: Path, folder: str) -> None:
        self._programs = programs
        self.folder = folder
        self._databases = 0

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, user=USER, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        # No TCP port: the socket is in the folder, which only this user enters.
        options = f"-k {self.folder} -c listen_addresses=''"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self.run("createdb", "-h", self.folder, name)
        return f"postgresql://{USER}@/{name}?host={quote(self.folder, safe='')}"


@contextmanager
def postgresql_server() -> Iterator[Server]:
    programs = skip_unless_possible()
    folder = tempfile.mkdtemp(prefix="rm-pg-", dir="/tmp")
    shutil.chown(folder, USER, USER)
    server = Server(programs, folder)
    try:
        server.run("initdb", "-D", f"{folder}/data", "--auth=trust", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
