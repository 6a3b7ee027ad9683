"""The caption that carries the label: `a photo of delicious {target}`, where the target is the label's id or its name.

caption = CaptionFormat()                        # ids, as the model is tuned to say "a photo of delicious 6"
caption.render(labels[6])                        # "a photo of delicious 6"
caption.parse("a photo of delicious 6", labels)  # labels[6], Beignets
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contract.labels import Label, LabelSet, match_key

PLACEHOLDER = "{target}"
DEFAULT_TEMPLATE = "a photo of delicious {target}"


class CaptionFormat(BaseModel):
    """How a label becomes a caption and back.

    `template` ends with `{target}`: what comes before is the same for every label, so that one decoder pass over it
    scores all labels. `target` is `id` (one token per label in BLIP's vocabulary for ids 0-341) or `name`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str = Field(default=DEFAULT_TEMPLATE, description="caption; ends with {target}")
    target: Literal["id", "name"] = Field(default="id", description="what stands for the label: its id, or its name")

    @field_validator("template")
    @classmethod
    def _ends_with_target(cls, template: str) -> str:
        if template.count(PLACEHOLDER) != 1 or not template.endswith(" " + PLACEHOLDER):
            raise ValueError(f"the template must end with ' {PLACEHOLDER}' and hold it once, got {template!r}")
        if not match_key(template.removesuffix(PLACEHOLDER)):
            raise ValueError(f"the template needs words before {PLACEHOLDER}, got {template!r}")
        return template

    @property
    def prefix(self) -> str:
        """The words before the target, without the space: `a photo of delicious`."""
        return self.template.removesuffix(PLACEHOLDER).rstrip()

    def target_text(self, label: Label) -> str:
        """`6` or `apple pie`. Ids are never zero-padded: `006` would be several tokens."""
        return str(label.id) if self.target == "id" else " ".join(label.name.replace("_", " ").split())

    def render(self, label: Label) -> str:
        """The caption a tuned model says for `label`."""
        return f"{self.prefix} {self.target_text(label)}"

    def parse(self, text: str, labels: LabelSet) -> Label | None:
        """The label that `text` names, or None where it names none; never raises, whatever the text.

        Strict: the whole prefix, then exactly one target. Case, accents, punctuation and doubled spaces do not count.
        An id is ASCII digits without leading zeros and within the set, so `341`, `006` and `²` are no labels of
        a set of 101.
        """
        if self.target == "name":
            prefix, key = match_key(self.prefix) + " ", match_key(text)
            return labels.find(key.removeprefix(prefix)) if key.startswith(prefix) else None
        words = text.split()
        if len(words) < 2 or match_key(" ".join(words[:-1])) != match_key(self.prefix):
            return None
        digits = words[-1]
        if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(len(labels))):
            return None
        label_id = int(digits)
        return labels[label_id] if str(label_id) == digits and label_id < len(labels) else None
