"""What `/info` says of a bundle: all that does not change while it serves."""

from __future__ import annotations

from typing import Any

from app.settings import Settings
from contract.bundle import Bundle

DEMONSTRATION = (
    "a demonstration, trained on drawn pictures: what it says of photos is worth little; serve a bundle of your own "
    "(FOOD_VISION_BUNDLE)"
)


def bundle_info(bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """The model, where it comes from, and what export measured of it."""
    manifest = bundle.manifest
    return {
        "model": {"name": manifest.name, "version": manifest.version},
        "demonstration": manifest.demonstration,
        "labels": len(bundle.labels) if bundle.labels is not None else 0,
        "image_size": manifest.image_size,
        "precision": manifest.precision,
        "opset": manifest.opset,
        "caption": manifest.caption.template if manifest.caption is not None else None,
        "parity": manifest.parity,
        "metrics": manifest.metrics,
        "source": manifest.source,
        "tower": manifest.tower.model_dump() if manifest.tower is not None else None,
        "familiarity": _familiarity(bundle, settings),
    }


def _familiarity(bundle: Bundle, settings: Settings) -> dict[str, Any] | None:
    """The bank of training photos, what it was measured to be worth, and what is made of it here."""
    found = bundle.manifest.familiarity
    if found is None:
        return None
    here = {"unfamiliar": settings.unfamiliar, "below": settings.unfamiliar_below}
    return found.model_dump(exclude={"check"}) | here | found.model_dump(include={"check"})
