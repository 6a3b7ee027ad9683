"""The one exception for a user's mistake: its message is a sentence that names the value and the remedy."""

from __future__ import annotations


class ContractError(ValueError):
    """A photo, label file, checkpoint or bundle is not what the contract says.

    Command lines print the message and exit with 1; the service turns it into its error shape.
    """


class PhotoError(ContractError):
    """A photo cannot be turned into pixels.

    `slug` is one of `empty_image`, `unsupported_format`, `bad_image`, `image_too_large`, `image_too_costly`.
    """

    def __init__(self, slug: str, message: str) -> None:
        super().__init__(message)
        self.slug = slug


class BundleError(ContractError):
    """A bundle folder is missing, incomplete, damaged or of another format version."""


class CheckpointError(ContractError):
    """A checkpoint folder is missing, incomplete or not a BLIP that this project can use."""
