import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from nubabel_workers.embedded.valkey import EmbeddedValkey

KEY = base64.urlsafe_b64encode(bytes(32)).decode()


def settings_for(broker_url: str, cache_url: str, **given: object) -> Settings:
    return Settings.model_validate(
        {
            "environment": "development",
            "database_url": "postgresql://owner@localhost/nubabel",
            "broker_url": broker_url,
            "cache_url": cache_url,
            "encryption_keys": (KEY,),
            **given,
        }
    )


@pytest.fixture
def settings(broker_url: str, cache_url: str) -> Settings:
    """Settings for the session's Valkey, emptied."""
    return settings_for(broker_url, cache_url)


@pytest.fixture
def own_valkey(short_dir: Path) -> Iterator[EmbeddedValkey]:
    """A server of this test's own, to stop and kill."""
    with EmbeddedValkey(short_dir) as valkey:
        yield valkey
