"""A service on loopback, with the tiny model."""

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("rio_tiler", reason="the extra [serve] is not installed")

from loopback import Client, running


@pytest.fixture(scope="module")
def client(sat, tmp_path_factory) -> Iterator[Client]:
    """A client of a service that the tests of a module share."""
    with running(sat, tmp_path_factory.mktemp("data")) as client:
        yield client
