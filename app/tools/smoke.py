"""Post a picture to a service that runs, and check the label: what `helm test` does.

    python -m app.tools.smoke http://127.0.0.1:8000 --bundle bundles/food101
    python -m app.tools.smoke http://127.0.0.1:8000 --photo dinner.jpg --label beignets

With a bundle the pictures are its own check pictures, and the labels those that PyTorch gave them when it was exported.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.key_file import read_keys
from contract.bundle import read_bundle
from contract.cli import run
from contract.errors import ContractError
from contract.precision import LIMITS


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m app.tools.smoke", description="Post a picture and check the label."
    )
    parser.add_argument("url", help="the service, as http://127.0.0.1:8000")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="bundle that is served: posts its check pictures")
    what.add_argument("--photo", type=Path, help="a picture of your own; needs --label")
    parser.add_argument("--label", help="the label that --photo must get: the data set's name, or the one for people")
    parser.add_argument("--api-keys-file", type=Path, help="file of API keys; the first one is sent")
    parser.add_argument("--timeout", type=float, default=60, help="longest wait for an answer in seconds (default: 60)")
    args = parser.parse_args(argv)
    if (args.photo is None) != (args.label is None):
        parser.error("--photo and --label go together")
    if not args.url.startswith(("http://", "https://")):
        parser.error("the service's URL must begin with http:// or https://")
    return run("smoke", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    service = Client(args.url, _first_key(args.api_keys_file), args.timeout)
    if args.photo is not None:
        if not args.photo.is_file():
            raise ContractError(f"There is no photo at {args.photo}.")
        _check(str(args.photo), service.ask("/predict", args.photo.read_bytes()), {args.label})
        return 0
    return check_bundle(service, args.bundle)


class Client:
    """A service by its URL; `key` is sent if there is one, `timeout` is in seconds."""

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url, self._key, self._timeout = url.rstrip("/"), key, timeout

    def ask(self, route: str, photo: bytes | None = None) -> dict[str, Any]:
        """The answer of a route, to a photo if one is given. Raises `ContractError` for anything but 200."""
        request = urllib.request.Request(self.url + route, data=photo, headers={"Content-Type": "image/png"})
        if self._key is not None:
            request.add_header("X-Api-Key", self._key)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(2000).decode("utf-8", "replace")
            raise ContractError(f"{self.url}{route} answered {error.code}: {text}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ContractError(f"{self.url}{route} cannot be reached: {reason}.") from None
        except ValueError:
            raise ContractError(f"{self.url}{route} did not answer with JSON; is it food-vision?") from None
        if not isinstance(found, dict):
            raise ContractError(f"{self.url}{route} did not answer with an object; is it food-vision?")
        return found


def check_bundle(service: Client, path: Path) -> int:
    """Post the check pictures of the bundle at `path`. Raises `ContractError` when an answer is wrong.

    A label counts as right if PyTorch's log-probability of it is within the precision's tolerance of the best one: a
    near tie may fall either way. A bundle without labels is asked for captions, which must not be empty.
    """
    bundle = read_bundle(path, weights=False)
    served = service.ask("/info").get("model", {}).get("version")
    if served != bundle.manifest.version:
        raise ContractError(f"{service.url} serves the bundle {served}, but {path} is {bundle.manifest.version}.")
    if bundle.check is None:
        raise ContractError(f"{path} has no check pictures; export it again, or use --photo.")
    tolerance = 2 * LIMITS[bundle.manifest.precision].self_check
    for number, pixels in enumerate(bundle.check.pixels):
        name, photo = f"check picture {number + 1}", _png(pixels)
        if bundle.labels is None or bundle.check.label_logprobs is None:
            caption = service.ask("/caption", photo).get("caption")
            if not caption:
                raise ContractError(f"{name}: the caption is empty.")
            print(f"{name}: {caption}")
            continue
        row = bundle.check.label_logprobs[number]
        right = {bundle.labels[int(i)].name for i in np.flatnonzero(row >= row.max() - tolerance)}
        # made up, and so like no photo of food: what the model computes is asked for, not whether it would answer
        _check(name, service.ask("/predict?unfamiliar=off&min_confidence=0", photo), right)
    return 0


def _check(name: str, answer: dict[str, Any], right: set[str]) -> None:
    if not right & {answer.get("label"), answer.get("prediction")}:
        raise ContractError(f"{name}: the label is {answer.get('label')!r}, not {' or '.join(sorted(right))}.")
    print(f"{name}: {answer['prediction']} ({answer['confidence']:.2f}), as it must be")


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _first_key(path: Path | None) -> str | None:
    if path is None:
        return None
    read_keys(path)  # says what is wrong with it
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line and not line.startswith("#"))


if __name__ == "__main__":
    sys.exit(main())
