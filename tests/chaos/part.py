"""What one part of the chaos run came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Part:
    """Its figures, for people and for JSON, and what must not have happened."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def must(self, holds: bool, fault: str) -> None:
        """Note the fault unless it `holds`."""
        if not holds:
            self.faults.append(fault)
