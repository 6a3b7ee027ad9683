"""The parts of the Helm chart that are made from code: its `settings`, their schema, and the table of values.

python -m scripts.chart --write    # after a change of app/settings.py or of helm/food-vision/values.yaml
python -m scripts.chart --check    # exit code 1 when a file is out of date; a test does the same

Each setting of the service is a value `settings.<camelCase>` of the same default and bounds, but for those of `MANAGED`,
which follow from other values, and the defaults of `IN_A_POD`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from app.settings import ENV_PREFIX, Settings
from contract.cli import run
from contract.errors import ContractError

CHART = Path(__file__).parent.parent / "helm" / "food-vision"
MANAGED = {  # setting: the value that decides it
    "bundle": "model.source",
    "port": "service.containerPort",
    "engine_cache": "engineCache.type",
    "api_keys_file": "apiKeys.existingSecret",
}
IN_A_POD: dict[str, tuple[Any, str]] = {  # other defaults than the program's, and why
    "host": ("0.0.0.0", "address to listen on; `::` in a cluster of IPv6"),
    "provider": ("", "`cpu`, `cuda` or `tensorrt`; empty: `cuda` on a GPU, `cpu` in `node.mode` cpu; never another"),
    "threads": (0, "engine threads on the CPU provider; 0: one for each CPU that the container is given"),
    "decode_processes": (0, "processes that decode photos; 0: one for each CPU that the container is given"),
    "shutdown_delay_seconds": (10, "after SIGTERM: not ready, but still answering, for so long"),
    "log_format": ("json", "log lines as `text` or as `json` objects"),
}
KEY = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z]\w*):(?: (?P<value>.*))?$")


def value_name(setting: str) -> str:
    """The chart's name of a setting: `max_batch` is `maxBatch`."""
    first, *rest = setting.split("_")
    return first + "".join(part.capitalize() for part in rest)


def settings_values() -> str:
    """The block `settings` of values.yaml."""
    lines = ["settings:\n"]
    for name, setting in _offered().items():
        default, meaning = _in_a_pod(name, setting)
        lines += [
            f"  # -- {meaning} (`{ENV_PREFIX}{name.upper()}`)\n",
            f"  {value_name(name)}: {json.dumps(default)}\n",
        ]
    return "".join(lines)


def settings_schema() -> dict[str, Any]:
    """The schema of `settings`: what each may be by the settings class; an empty text leaves it to the program."""
    types = Settings.model_json_schema()["properties"]
    properties = {}
    for name, setting in _offered().items():
        rule = {key: value for key, value in types[name].items() if key not in ("title", "default", "description")}
        if _in_a_pod(name, setting)[0] == "" and rule != {"type": "string"}:
            rule = {"anyOf": [{"const": ""}, rule]}
        properties[value_name(name)] = rule
    return {"type": "object", "additionalProperties": False, "properties": properties}


def values_table(values: str) -> str:
    """A row for each value of `values` (the text of values.yaml): name, default and the comment before it."""
    rows: list[str] = []
    above: list[str] = []
    comment = ""
    for line in values.splitlines():
        found = KEY.match(line)
        if line.strip().startswith("# -- "):
            comment = line.strip().removeprefix("# -- ")
        elif comment and line.strip().startswith("# "):
            comment += " " + line.strip().removeprefix("# ")
        elif found:
            above = [*above[: len(found["indent"]) // 2], found["name"]]
            if comment:
                default = found["value"] if found["value"] is not None else "see values.yaml"
                shown = default if found["value"] is None else f"`{default}`"
                rows.append(f"| `{'.'.join(above)}` | {shown} | {comment} |\n".replace("||", "| |"))
            comment = ""
    return "| value | default | meaning |\n| --- | --- | --- |\n" + "".join(rows)


def expected() -> dict[Path, str]:
    """The text of each file as the code makes it now."""
    values_file, schema_file, readme = CHART / "values.yaml", CHART / "values.schema.json", CHART / "README.md"
    values = _between(values_file, "# settings:begin", "# settings:end", settings_values())
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    table = _between(readme, "<!-- values:begin -->", "<!-- values:end -->", values_table(values))
    return {values_file: values, schema_file: json.dumps(schema, indent=2) + "\n", readme: table}


def _offered() -> dict[str, FieldInfo]:
    return {name: setting for name, setting in Settings.model_fields.items() if name not in MANAGED}


def _in_a_pod(name: str, setting: FieldInfo) -> tuple[Any, str]:
    default = "" if setting.default is None else setting.default
    return IN_A_POD.get(name, (default, setting.description or ""))


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
        elif file.read_text(encoding="utf-8") != text:
            raise ContractError(f"{file} is out of date; run python -m scripts.chart --write.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
