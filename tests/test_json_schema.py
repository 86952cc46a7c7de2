"""Schema files: what they refuse is one line, and the page that documents them is made from them."""

import dataclasses
import json

import jsonschema
import pytest

from facelib.errors import FaceError
from facelib.evaluation.results import SCHEMA
from facelib.json_schema import check_json, read_schema
from facelib.model_input import IO_CHOICES, SIDECAR_SCHEMA, Io
from tests.helpers.schema_tables import PAGE, list_keys, render_page

CURVE = {
    "type": "object",
    "properties": {
        "x": {"type": "array", "minItems": 1},
        "n": {"type": "integer", "minimum": 0},
        "list": {"maxItems": 2},
    },
    "sameLength": ["x", "y"],
    "oneMore": "edges",
}


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "curve.schema.json"
    path.write_text(json.dumps(CURVE))
    return path


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the file must be an object. Received: []. Mend it."),
        ({"x": []}, "x must be a list of at least 1 values. Received: []."),
        ({"list": [1, 2, 3]}, "list must be a list of at most 2 values. Received: [1, 2, 3]."),
        ({"n": -1}, "n must be at least 0. Received: -1."),
        ({"n": "a" * 99}, 'n must be a whole number. Received: "' + "a" * 56 + "..."),
        ({"x": [1], "y": [1, 2]}, "equal length in x, y, and one value more in 'edges'. Received: 1 in x, 2 in y."),
        ({"x": [1], "edges": [1]}, "and one value more in 'edges'. Received: 1 in x, 1 in edges."),
    ],
)
def test_an_error_names_file_place_rule_and_value(schema, value, words):
    with pytest.raises(FaceError) as error:
        check_json(value, schema, "c.json", "curve", "Mend it.")

    assert str(error.value).startswith("'c.json' is not a valid curve: ") and words in str(error.value)


@pytest.mark.parametrize("value", [{}, {"x": [1], "y": [2], "edges": [0, 1]}, {"n": 3, "other": None}])
def test_a_valid_value_passes(schema, value):
    check_json(value, schema, "c.json", "curve", "Mend it.")


@pytest.mark.parametrize("path", [SCHEMA, SIDECAR_SCHEMA])
def test_the_schema_files_are_valid_and_every_key_is_described(path):
    schema = read_schema(path)

    jsonschema.Draft202012Validator.check_schema(schema)
    for part in (schema, *(schema["$defs"][name] for name in ("ijb_report",) if name in schema["$defs"])):
        assert [key for key, _, meaning in list_keys(part, schema) if not meaning] == []


def test_the_page_is_made_from_the_schemas():
    text = PAGE.read_text(encoding="utf-8")

    assert text == render_page(text), "run: python -m tests.helpers.schema_tables"
    assert "`sets.NAME.vr.FAR.ci95`" in text and "`io.pixels`" in text and "`identification.GALLERY.rank.K`" in text


def test_the_io_of_the_schema_is_that_of_the_code():
    io = read_schema(SIDECAR_SCHEMA)["$defs"]["io"]["properties"]

    assert list(io) == [field.name for field in dataclasses.fields(Io)]
    assert {name: tuple(io[name]["enum"]) for name in IO_CHOICES} == IO_CHOICES
