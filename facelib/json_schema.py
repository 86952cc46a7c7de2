"""JSON files checked against the schema files of this package: JSON Schema, draft 2020-12.

Two keywords are added, for lists that belong together: `sameLength` names lists of equal length, `oneMore` the list
that has one value more than those.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from facelib.errors import FaceError

_TYPES = {"object": "an object", "array": "a list", "string": "text", "number": "a number",
          "integer": "a whole number", "boolean": "true or false", "null": "null"}  # fmt: skip
_MAX_RECEIVED = 60  # characters of the wrong value that an error shows


def check_json(
    value: Any, schema: Path, path: Path | str, what: str, mend: str, *, definition: str | None = None
) -> None:
    """Refuses a value that its schema does not describe.

    Args:
        value: content of a JSON file.
        schema: the schema file.
        path: the JSON file, named in the error.
        what: what the file is, e.g. 'report'.
        mend: the sentence that ends the error and says what to do.
        definition: name of the part of the schema in `$defs` to check against; default: the whole schema.

    Raises:
        FaceError: the place in the file, what is expected there, and what was received.
    """
    from jsonschema.exceptions import relevance

    errors = list(_validator(schema, definition).iter_errors(value))
    if errors:
        error = max(errors, key=relevance)
        where = ".".join(map(str, error.absolute_path)) or "the file"
        raise FaceError(
            f"'{path}' is not a valid {what}: {where} must be {_expected(error)}. Received: {_received(error)}. {mend}"
        )


@cache
def read_schema(schema: Path) -> dict[str, Any]:
    """The content of a schema file."""
    return json.loads(schema.read_text(encoding="utf-8"))


@cache
def _validator(schema: Path, definition: str | None):
    from jsonschema import Draft202012Validator, validators

    extended = validators.extend(Draft202012Validator, {"sameLength": _same_length, "oneMore": _one_more})
    whole = read_schema(schema)
    return extended(whole if definition is None else {"$defs": whole["$defs"], "$ref": f"#/$defs/{definition}"})


def _lists_of(value: Any, names: list[str]) -> list[list]:
    return [value[name] for name in names if isinstance(value, dict) and isinstance(value.get(name), list)]


def _same_length(_validator, names: list[str], value: Any, _schema):
    from jsonschema import ValidationError

    if len({len(found) for found in _lists_of(value, names)}) > 1:
        yield ValidationError("lists of different lengths")


def _one_more(_validator, name: str, value: Any, schema: dict):
    from jsonschema import ValidationError

    lists = _lists_of(value, [name, schema["sameLength"][0]])
    if len(lists) == 2 and len(lists[0]) != len(lists[1]) + 1:
        yield ValidationError("lists of other lengths")


def _expected(error) -> str:
    """What the keyword that failed asks for, to be read after "must be"."""
    rule, asked = error.validator, error.validator_value
    if rule == "type":
        return " or ".join(_TYPES[name] for name in ([asked] if isinstance(asked, str) else asked))
    if rule == "required":
        return f"an object with the key '{next(key for key in asked if key not in error.instance)}'"
    if rule == "anyOf":
        return "an object with the key " + " or ".join(f"'{one['required'][0]}'" for one in asked)
    if rule == "enum":
        return f"one of {', '.join(map(str, asked))}"
    if rule == "pattern":
        return f"an object whose keys are each {error.schema['description']}"
    if rule == "minProperties":
        return "an object that is not empty"
    if rule in ("minItems", "maxItems"):
        return f"a list of {'at least' if rule == 'minItems' else 'at most'} {asked} values"
    if rule in ("sameLength", "oneMore"):
        more = f", and one value more in '{error.schema['oneMore']}'" if "oneMore" in error.schema else ""
        return f"an object with lists of equal length in {', '.join(error.schema['sameLength'])}{more}"
    signs = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "above",
    }
    return f"{signs[rule]} {asked}"


def _received(error) -> str:
    if isinstance(error.instance, dict):
        if error.validator in ("sameLength", "oneMore"):
            names = [*error.schema["sameLength"], *([error.schema["oneMore"]] if "oneMore" in error.schema else [])]
            lists = {name: error.instance[name] for name in names if isinstance(error.instance.get(name), list)}
            return ", ".join(f"{len(values)} in {name}" for name, values in lists.items())
        keys = ", ".join(f"'{key}'" for key in error.instance)
        return f"an object with the keys {_cut(keys)}" if keys else "an empty object"
    return _cut(json.dumps(error.instance, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_RECEIVED else text[: _MAX_RECEIVED - 3] + "..."
