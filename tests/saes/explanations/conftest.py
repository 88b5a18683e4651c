"""What several tests of explanations take."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from saes.features.examples import Text
from tests.saes.explanations.planted import planted_text
from tests.saes.explanations.served import Server


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


@pytest.fixture(scope="session")
def text(embedded: Any, tmp_path_factory: pytest.TempPathFactory) -> Text:
    """Rows of the embedded model's held-out text, at the embeddings."""
    return planted_text(embedded, tmp_path_factory.mktemp("planted"))
