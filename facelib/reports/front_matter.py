"""The YAML front matter of a Hugging Face model card: the metadata that the Hub reads.

Scalars are written as JSON, which is YAML too: no text of a sidecar can end the front matter or add a key.
"""

import json
import re
from typing import Any

LICENCES = {  # identifiers of the Hub (huggingface.co/docs/hub/repositories-licenses) that occur with face models
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0",
    "agpl-3.0", "unlicense", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "openrail", "unknown",
}  # fmt: skip

_OTHER_TYPES = {"true", "false", "yes", "no", "on", "off", "null"}


def front_matter(values: dict[str, Any]) -> str:
    """`---`, the values as YAML, `---`.

    Args:
        values: texts, numbers, lists and dictionaries.
    """
    return "---\n" + "".join(f"{line}\n" for line in _lines(values)) + "---\n"


def licence_keys(licence: str | None) -> dict[str, str]:
    """The keys of a licence: an identifier of the Hub, or `other` with a name; {} where none is recorded.

    Args:
        licence: of a sidecar.
    """
    if not licence or not licence.strip():
        return {}
    known = re.sub(r"\s+", "-", licence.strip().lower())
    if known in LICENCES:
        return {"license": known}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")[:60].strip("-")
    return {"license": "other", "license_name": name or "see-below"}


def _lines(value: Any, indent: str = "") -> list[str]:
    """A dictionary or list in YAML's block style."""
    lines = []
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        head = f"{indent}- " if isinstance(value, list) else f"{indent}{_scalar(key)}:"
        if not isinstance(part, dict | list) or not part:
            lines.append(f"{head.rstrip()} {_scalar(part)}")
        elif isinstance(value, list):
            first, *rest = _lines(part, indent + "  ")
            lines += [head + first.lstrip(), *rest]
        else:
            lines += [head, *_lines(part, indent + "  ")]
    return lines


def _scalar(value: Any) -> str:
    """A text that YAML cannot take for another type is bare; any other is in quotes, unprintable characters escaped."""
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", json.dumps(value))  # YAML 1.1 takes 1e-05 for a text
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[a-z]{2}[a-z_-]*", value) and value not in _OTHER_TYPES:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
