"""Build the TensorRT engines of a bundle ahead of time, so that the service starts in seconds.

    python -m export.engines bundles/food101 --engine-cache /var/cache/food-vision

Engines belong to one GPU model, one TensorRT and the sessions of the service, so `python -m app.engines` builds them,
where they will be served: this command hands over to it, and works in the serving image under that name.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Become `python -m app.engines` with the same arguments."""
    os.execv(sys.executable, [sys.executable, "-m", "app.engines", *sys.argv[1:]])


if __name__ == "__main__":
    main()
