"""A stand-in for S3 where pyarrow looks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.bulk.bucket import Bucket, bucket


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Empty buckets, of this process alone."""
    from app.bulk import places  # needs the extra bulk

    with bucket() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        places._file_system.cache_clear()
        yield found
        places._file_system.cache_clear()
