"""The schema and the table of the chart's values follow from one file."""

from __future__ import annotations

from typing import Any

import pytest

from contract.errors import ContractError
from scripts import chart

VALUES = """
# -- how many; a comment
# of two lines
replicas: 1  # @schema minimum: 0, maximum: 9
image:
  # -- its tag
  tag: "a # b"
  share: 0.5  # no rule at all
limits:  # @schema is: limits
  memory: 8Gi
hosts: []  # @schema items: {type: string, pattern: '^[a-z#]+$'}
either: ""  # @schema anyOf: [{const: ''}, {type: integer}]
"""


def test_types_come_from_defaults_and_bounds_from_comments() -> None:
    schema = chart.values_schema(VALUES)
    assert schema["required"] == ["replicas", "image", "limits", "hosts", "either"]
    assert schema["additionalProperties"] is False
    found: dict[str, Any] = schema["properties"]
    assert found["replicas"] == {"type": "integer", "minimum": 0, "maximum": 9}
    assert found["image"] == {
        "type": "object",
        "additionalProperties": False,
        "required": ["tag", "share"],
        "properties": {"tag": {"type": "string"}, "share": {"type": "number"}},
    }
    assert found["limits"] == {"$ref": "#/definitions/limits"}
    assert schema["definitions"]["limits"]["required"] == ["memory"]
    assert found["hosts"] == {"type": "array", "items": {"type": "string", "pattern": "^[a-z#]+$"}}
    assert found["either"] == {"anyOf": [{"const": ""}, {"type": "integer"}]}
    assert "global" in found  # Helm's own


def test_the_table_shows_what_has_a_meaning() -> None:
    assert chart.values_table(VALUES).splitlines()[2:] == [
        "| `replicas` | `1` | how many; a comment of two lines |",
        '| `image.tag` | `"a # b"` | its tag |',
    ]


@pytest.mark.parametrize("rule", ["least: 0", "is: tagg", "minimum 0", "is: [a", "is: [url]"])
def test_a_rule_that_is_none_is_named(rule: str) -> None:
    with pytest.raises(ContractError, match=r"values.yaml: a.b has the rule .*write `# @schema KEYWORD: VALUE, …`"):
        chart.values_schema(f"a:\n  b: 1  # @schema {rule}\n")


def test_a_setting_that_the_chart_may_leave_out() -> None:
    rules = chart.settings_rules({"settings": {"provider": "", "host": "0.0.0.0"}})
    assert rules["provider"]["empty"] is True
    assert "empty" not in rules["host"]
    assert rules["port"] == {"managed": "service.containerPort"}
    assert rules["maxBatch"] == {"type": "integer", "minimum": 1, "maximum": 256, "default": 16}
