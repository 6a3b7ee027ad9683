"""The parts of the Helm chart that are made from code: schema and table of values, rules of settings.

python -m scripts.chart --write    # after a change of app/settings.py or of the chart's values.yaml
python -m scripts.chart --check    # exit code 1 when a file is out of date; a test does the same

values.yaml is the one place where a value is written down: its default gives the type, `# -- …`
above it the meaning, and `# @schema …` behind it the bounds, as the inside of a YAML map of JSON
Schema. chart.json is for the chart's templates: what the service takes for each of its settings,
which value decides those of `MANAGED`, and the defaults of `MODES`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.settings import Settings
from contract.cli import run
from contract.errors import ContractError

CHART = Path(__file__).parent.parent / "helm" / "food-vision"
MANAGED = {  # setting: the value that decides it
    "bundle": "model.source",
    "port": "service.containerPort",
    "engine_cache": "engineCache.type",
    "api_keys_file": "apiKeys.existingSecret",
}
MODES = ("node", "model")  # sections that are chosen by a mode: what of the others is set, is a mistake
_QUANTITY = {
    "anyOf": [
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"},
        {"type": "number", "exclusiveMinimum": 0},
    ]
}
_VARIABLE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "value": {"type": "string"},
        "valueFrom": {"type": "object"},
    },
}
DEFINITIONS: dict[str, dict[str, Any]] = {  # what `# @schema is: NAME` stands for
    "bucket": {"type": "string", "pattern": "^([a-z0-9][a-z0-9._-]*)?$"},
    "cidrs": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"}},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "environment": {"type": "array", "items": _VARIABLE},
    "limits": {"type": "object", "required": ["memory"], "additionalProperties": _QUANTITY},
    "name": {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", "maxLength": 253},
    "named": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "objects": {"type": "array", "items": {"type": "object"}},
    "pullPolicy": {"type": "string", "enum": ["IfNotPresent", "Always", "Never"]},
    "quantities": {"type": "object", "additionalProperties": _QUANTITY},
    "reference": {"type": "string", "pattern": "^([a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64})?$"},
    "repository": {"type": "string", "pattern": "^([a-z0-9][a-z0-9._/:-]*)?$"},
    "settings": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    "size": {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)$"},
    "tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"},
    "texts": {"type": "object", "additionalProperties": {"type": "string"}},
    "url": {"type": "string", "pattern": "^(https?://[^ ]+)?$"},
}
KEYWORDS = {
    "is", "type", "enum", "const", "anyOf", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "exclusiveMinimum", "items",
}  # fmt: skip
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
GLOBAL = {"type": "object", "description": "what Helm itself passes to charts that are part of another"}
LINE = re.compile(
    r'^(?P<indent> *)(?P<name>[A-Za-z]\w*):(?: (?P<default>"[^"]*"|(?!#)\S.*?))?(?: +# @schema (?P<rule>.*)| +# .*)?$'
)


@dataclass(frozen=True)
class Value:
    """One line of values.yaml; `default` is its text, None for a section."""

    path: str
    default: str | None
    meaning: str
    rule: str


def values_of(text: str) -> Iterator[Value]:
    """Every key of values.yaml in its order, with the comment above it."""
    above: list[str] = []
    comment = ""
    for line in text.splitlines():
        found = LINE.match(line)
        if line.strip().startswith("# -- "):
            comment = line.strip().removeprefix("# -- ")
        elif comment and line.strip().startswith("# "):
            comment += " " + line.strip().removeprefix("# ")
        elif found:
            above = [*above[: len(found["indent"]) // 2], found["name"]]
            yield Value(".".join(above), found["default"], comment, found["rule"] or "")
            comment = ""


def values_table(values: str) -> str:
    """A row for each documented value of `values` (the text of values.yaml)."""
    rows = [
        f"| `{it.path}` | {'see values.yaml' if it.default is None else f'`{it.default}`'} | {it.meaning} |\n"
        for it in values_of(values)
        if it.meaning
    ]
    return "| value | default | meaning |\n| --- | --- | --- |\n" + "".join(rows)


def values_schema(values: str) -> dict[str, Any]:
    """The JSON Schema of `values` (the text of values.yaml).

    Raises `ContractError` that names a rule which is none.
    """
    rules = {it.path: _rule(it) for it in values_of(values) if it.rule}
    found = yaml.safe_load(values)
    schema = _section(found, "", rules)
    schema["properties"]["global"] = GLOBAL
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of food-vision"}
    definitions = DEFINITIONS | {"settings": DEFINITIONS["settings"] | {"required": list(found.get("settings", {}))}}
    return head | schema | {"definitions": definitions}


def _rule(value: Value) -> dict[str, Any]:
    try:
        rule = yaml.safe_load(f"{{{value.rule}}}")
    except yaml.YAMLError:
        rule = {}
    if not rule or set(rule) - KEYWORDS or str(rule.get("is", "url")) not in DEFINITIONS:
        raise ContractError(
            f"values.yaml: {value.path} has the rule {value.rule!r}; write `# @schema KEYWORD: VALUE, …` with "
            f"{', '.join(sorted(KEYWORDS))}, where `is` is one of {', '.join(DEFINITIONS)}."
        )
    return {"$ref": f"#/definitions/{rule['is']}"} if "is" in rule else dict(rule)


def _section(values: dict[str, Any], above: str, rules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every key is known and has to be there: a null would leave a template without what it reads."""
    properties = {}
    for name, default in values.items():
        path = f"{above}{name}"
        rule = rules.get(path, {})
        if isinstance(default, dict) and not rule:
            properties[name] = _section(default, f"{path}.", rules)
        elif {"$ref", "type", "anyOf"} & set(rule):
            properties[name] = rule
        else:
            properties[name] = {"type": TYPES[type(default)]} | rule
    return {"type": "object", "additionalProperties": False, "required": list(values), "properties": properties}


def settings_rules(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the service takes for each setting, by its name in the chart.

    `managed` is the value that decides it; `empty`: it may be left out, and the chart decides.
    """
    types = Settings.model_json_schema()["properties"]
    rules: dict[str, dict[str, Any]] = {}
    for field, setting in Settings.model_fields.items():
        name = value_name(field)
        if field in MANAGED:
            rules[name] = {"managed": MANAGED[field]}
        else:
            kept = ("type", "enum", "minimum", "maximum")
            rules[name] = {key: types[field][key] for key in kept if key in types[field]} | {"default": setting.default}
            if values["settings"].get(name) == "":
                rules[name]["empty"] = True
    return rules


def value_name(setting: str) -> str:
    """The chart's name of a setting: `max_batch` is `maxBatch`."""
    first, *rest = setting.split("_")
    return first + "".join(part.capitalize() for part in rest)


def expected() -> dict[Path, str]:
    """The text of each file as the code makes it now."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    readme = CHART / "README.md"
    found = yaml.safe_load(values)
    parts = {"settings": settings_rules(found), "defaults": {section: found[section] for section in MODES}}
    return {
        CHART / "values.schema.json": _compact(values_schema(values)) + "\n",
        CHART / "chart.json": "{\n" + ",\n".join(map(_rows, parts, parts.values())) + "\n}\n",
        readme: _between(readme, "<!-- values:begin -->", "<!-- values:end -->", values_table(values)),
    }


def _rows(name: str, rows: dict[str, Any]) -> str:
    lines = (f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    return f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }"


def _compact(schema: Any, indent: str = "") -> str:
    """JSON with a line for each value: only what has keys of the chart inside is broken."""
    if not (isinstance(schema, dict) and ({"properties", "definitions"} & set(schema) or indent.endswith("|"))):
        return json.dumps(schema)
    inner = indent.removesuffix("|") + "  "
    lines = [
        f"{inner}{json.dumps(key)}: {_compact(it, f'{inner}|' if key in ('properties', 'definitions') else inner)}"
        for key, it in schema.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + indent.removesuffix("|") + "}"


def _between(file: Path, begin: str, end: str, text: str) -> str:
    old = file.read_text(encoding="utf-8")
    head, found, rest = old.partition(f"{begin}\n")
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ContractError(f"{file} needs the lines {begin} and {end}.")
    return f"{head}{begin}\n{text}{end}{tail}"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.chart", description="Parts of the chart, from code.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="bring the files up to date")
    what.add_argument("--check", action="store_true", help="exit code 1 if one is out of date")
    args = parser.parse_args(argv)
    return run("scripts.chart", lambda: _main(write=args.write))


def _main(*, write: bool) -> int:
    for file, text in expected().items():
        if write:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            raise ContractError(f"{file} is out of date; run python -m scripts.chart --write.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
