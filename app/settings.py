"""Every setting: an environment variable `FOOD_VISION_<NAME>`, and a flag of `python -m app`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.cores import available
from contract.errors import ContractError
from contract.familiarity import BELOW
from contract.pixels import DECODE_BYTES, MAX_PIXELS
from contract.structure import MOST_PIXELS

ENV_PREFIX = "FOOD_VISION_"
VERTEX_PORT = "AIP_HTTP_PORT"  # set by Vertex AI in its containers
LONGEST_PREFIX = 256  # characters
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+")  # no `//`, no dots alone, nothing to decode
Network = IPv4Network | IPv6Network
Unfamiliar = Literal["off", "mark", "abstain"]


class Settings(BaseSettings):
    """Limits, addresses and the provider; a field's description is its row in the docs."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundle: Path = Field(description="bundle folder to serve")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 picks a free one")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        default="cpu", description="ONNX Runtime provider that must run"
    )
    device: int = Field(default=0, ge=0, le=64, description="GPU to use, counted from 0")
    threads: int = Field(default=0, ge=0, le=1024, description="engine threads on the CPU provider; 0: one per core")
    max_batch: int = Field(
        default=16, ge=1, le=256, description="most photos in one engine call; fewer where they are faster alone"
    )
    cuda_graphs: bool = Field(
        default=False, description="on a GPU: one session and one captured graph for each batch size"
    )
    engine_cache: Path | None = Field(
        default=None, description="folder for TensorRT engines (needs `tensorrt`); none: built at each start"
    )
    in_flight: int = Field(
        default=0,
        ge=0,
        le=8,
        description="batches at work at a time, each with sessions of its own; "
        "0: 2 on a GPU, but 1 where `tensorrt` has no `engine_cache`, and 1 on a CPU",
    )
    max_queue: int = Field(default=256, ge=1, le=100_000, description="most photos waiting for the engine; then 503")
    decode_processes: int = Field(default=0, ge=0, le=256, description="processes that decode photos; 0: one per core")
    max_decoding: int = Field(default=64, ge=1, le=10_000, description="most photos waiting to be decoded; then 503")
    decode_cpu_ms: int = Field(
        default=2000,
        ge=100,
        le=60_000,
        description="most processor time that decoding one photo may take; then 413",
    )
    max_connections: int = Field(
        default=1000,
        ge=16,
        le=100_000,
        description="most connections at a time; then the one that has waited longest for its client is closed",
    )
    keep_alive_seconds: int = Field(
        default=620,
        ge=1,
        le=3600,
        description="longest wait between two requests of a connection; a load balancer before it must wait less",
    )
    max_body_bytes: int = Field(default=32 << 20, ge=1024, description="largest request body in bytes; then 413")
    body_timeout_ms: int = Field(
        default=10_000,
        ge=1,
        description="longest wait for headers, and for each 16 KiB or hundredth of a body; then 408",
    )
    accept_compressed: bool = Field(
        default=False, description="read bodies under `Content-Encoding: gzip` or `deflate`; else they get 415"
    )
    max_bodies_bytes: int = Field(
        default=0,
        ge=0,
        description="most bytes of all bodies at a time, those being answered included; then 503; "
        "0: 8 times `max_body_bytes`",
    )
    max_requests: int = Field(
        default=512,
        ge=1,
        description="most requests with a body at a time; then 503; by default more than can wait in `max_queue` "
        "and `max_decoding`",
    )
    max_pixels: int = Field(
        default=MAX_PIXELS,
        ge=1,
        le=MOST_PIXELS,
        description="most pixels of one photo, from its header; then 413; a decode process may take "
        f"{DECODE_BYTES} bytes a pixel",
    )
    max_images: int = Field(default=32, ge=1, le=1024, description="most photos in one /predict/batch; then 413")
    top_k: int = Field(default=5, ge=1, le=100, description="labels in `top` when the request does not say")
    abstain_below: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="least confidence of an answer when the request does not say; below it `prediction` is null",
    )
    unfamiliar: Unfamiliar = Field(
        default="abstain",
        description="what becomes of a photo that does not look like the training photos, when the request does not say: "
        "`prediction` is null (abstain), it is told (mark), or nothing is (off)",
    )
    unfamiliar_below: float = Field(
        default=BELOW,
        ge=0,
        le=1,
        description="a photo is unfamiliar where a smaller share of the training photos looks less like the rest",
    )
    max_caption_tokens: int = Field(
        default=20, ge=1, le=63, description="longest caption in tokens; at most 32 on a GPU"
    )
    request_timeout_ms: int = Field(default=10_000, ge=1, description="a request older than this is dropped; then 504")
    stuck_seconds: int = Field(
        default=60, ge=1, description="an engine call longer than this fails liveness, and requests with 503"
    )
    shutdown_delay_seconds: int = Field(
        default=0,
        ge=0,
        description="after SIGTERM: not ready, but still answering, for so long; a second signal ends it",
    )
    drain_seconds: int = Field(default=20, ge=0, description="longest wait for running requests after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    log_format: Literal["text", "json"] = Field(default="text", description="log lines as text or as JSON objects")
    root_path: str = Field(
        default="", description="prefix that a proxy puts before every path, like /food; it may take it off or not"
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses and networks whose `X-Forwarded-Prefix` is believed, with commas between; `*` for all",
    )
    api_keys_file: Path | None = Field(
        default=None, description="file of API keys, one on each line; none: no key is asked for"
    )
    cors_origins: str = Field(
        default="", description="origins whose web pages may call the service, with commas between; `*` for all"
    )

    @field_validator("in_flight")
    @classmethod
    def _builds_once(cls, batches: int, info: ValidationInfo) -> int:
        if batches > 1 and info.data.get("provider") == "tensorrt" and info.data.get("engine_cache") is None:
            what = (
                "With provider tensorrt it must be 0 or 1 unless there is an engine_cache ({name}): each start "
                "would build every engine {times} times, for minutes each"
            )
            raise PydanticCustomError("cache", what, {"name": f"{ENV_PREFIX}ENGINE_CACHE", "times": batches})
        return batches

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        if all(re.fullmatch(r"\*|https?://[^/\s,*?#@]+", origin) for origin in _split(text)):
            return text
        raise PydanticCustomError("origins", "Each must be like https://example.org, with no path, or *")

    @field_validator("root_path")
    @classmethod
    def _is_prefix(cls, text: str) -> str:
        prefix = prefix_from(text)
        if prefix is None:
            what = "It must be like /food, at most {most} letters, digits and ._~- between single slashes"
            raise PydanticCustomError("prefix", what, {"most": LONGEST_PREFIX})
        return prefix

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        try:
            networks(_split(text))
        except ValueError as error:
            what = "Each must be like 10.0.0.7 or 10.0.0.0/8, or *; {error}"
            raise PydanticCustomError("networks", what, {"error": str(error)}) from None
        return text

    @field_validator("max_bodies_bytes")
    @classmethod
    def _holds_one(cls, most: int, info: ValidationInfo) -> int:
        one = info.data.get("max_body_bytes", 0)
        if 0 < most < one:
            raise PydanticCustomError("bodies", "It must be 0 or at least max_body_bytes, {one}", {"one": one})
        return most

    @property
    def bodies_bytes(self) -> int:
        """Most bytes of all bodies at a time."""
        return self.max_bodies_bytes or 8 * self.max_body_bytes

    @property
    def origins(self) -> list[str]:
        """The origins of `cors_origins`."""
        return _split(self.cors_origins)

    @property
    def trusted_networks(self) -> list[Network]:
        """The networks of `trusted_proxies`."""
        return networks(_split(self.trusted_proxies))

    @property
    def engines(self) -> int:
        """Batches at work at a time."""
        return self.in_flight or (1 if self.provider == "cpu" or self.builds_at_start else 2)

    @property
    def builds_at_start(self) -> bool:
        """Whether each start builds TensorRT's engines, since they are kept nowhere."""
        return self.provider == "tensorrt" and self.engine_cache is None

    @property
    def decoders(self) -> int:
        """Processes of the decode pool."""
        return self.decode_processes or available()


def prefix_from(text: str) -> str | None:
    """A prefix without its last slash, "" if there is none in the text; None for what is no prefix."""
    prefix = text.strip().removesuffix("/")
    return prefix if not prefix or (len(prefix) <= LONGEST_PREFIX and _PREFIX.fullmatch(prefix)) else None


def networks(addresses: Iterable[str]) -> list[Network]:
    """Of addresses, networks, or `*` for all. Raises `ValueError` that names what is neither."""
    everywhere = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    return [network for one in addresses for network in (everywhere if one == "*" else [ip_network(one)])]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `overrides`. Raises `ContractError` naming the setting and
    what is allowed.

    Vertex AI's AIP_HTTP_PORT is the default of `port`.
    """
    vertex_port, asked = os.environ.get(VERTEX_PORT), {name.upper() for name in os.environ}
    if vertex_port and "port" not in overrides and f"{ENV_PREFIX}PORT" not in asked:
        if not (vertex_port.isascii() and vertex_port.isdigit() and int(vertex_port[:6]) <= 65535):
            raise ContractError(f"The variable {VERTEX_PORT} must be a port, 0 to 65535, not {vertex_port[:80]!r}.")
        overrides["port"] = vertex_port
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            raise ContractError(
                f"No {first['loc'][0]} was given; use --{first['loc'][0]} PATH or {ENV_PREFIX}BUNDLE."
            ) from None
        name = ".".join(str(part) for part in first["loc"])
        raise ContractError(
            f"The setting {name} ({ENV_PREFIX}{name.upper()}) is wrong: {first['msg']}, not {str(first['input'])[:80]!r}."
        ) from None
