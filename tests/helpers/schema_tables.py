"""The tables of docs/report.md, made from the schemas: `python -m tests.helpers.schema_tables` writes them anew."""

import re
from collections.abc import Iterator
from pathlib import Path

from facelib.evaluation.results import SCHEMA
from facelib.json_schema import read_schema
from facelib.model_input import SIDECAR_SCHEMA

PAGE = Path(__file__).parents[2] / "docs" / "report.md"
_WORDS = {"integer": "whole number", "string": "text", "array": "list", "boolean": "true or false"}


def render_page(text: str) -> str:
    """The page with its tables made anew between their marks."""
    report, sidecar = read_schema(SCHEMA), read_schema(SIDECAR_SCHEMA)
    roots = {"report": (report, report), "ijb_report": (report["$defs"]["ijb_report"], report),
             "tinyface_report": (report["$defs"]["tinyface_report"], report),
             "sidecar": (sidecar, sidecar)}  # fmt: skip

    def table(match: re.Match) -> str:
        rows = [f"| `{key}` | {value} | {meaning} |" for key, value, meaning in list_keys(*roots[match[1]])]
        return "\n".join([match[0].split("\n")[0], "| key | value | meaning |", "|---|---|---|", *rows, "<!-- end -->"])

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", table, text, flags=re.S)


def list_keys(part: dict, whole: dict, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, value, meaning) of every key below `part`, in the order of the schema."""
    children = dict(part.get("properties", {}))
    if "title" in part and "additionalProperties" in part:
        children[part["title"]] = part["additionalProperties"]
    for key, child in children.items():
        described = child.get("description")
        if "$ref" in child:
            child = {**whole["$defs"][child["$ref"].rsplit("/", 1)[-1]]}
            if "items" in child and described:
                described = f"{child['description']}, {described}"
        is_inner = "properties" in child or "additionalProperties" in child
        if not is_inner or described:
            yield prefix + key, _value(child), described or child.get("description", "")
        yield from list_keys(child, whole, f"{prefix}{key}.")
        if child.get("items", {}).get("$ref"):
            yield from list_keys(whole["$defs"][child["items"]["$ref"].rsplit("/", 1)[-1]], whole, f"{prefix}{key}[].")


def _value(part: dict) -> str:
    if "enum" in part:
        return " or ".join(part["enum"])
    types = part.get("type", "any value")
    return " or ".join(_WORDS.get(name, name) for name in ([types] if isinstance(types, str) else types))


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
