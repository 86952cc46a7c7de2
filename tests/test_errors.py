"""Error messages: one line that shows a value from a file only as far as it is useful."""

import pickle

import pytest

from facelib.errors import MAX_MESSAGE, BadRecord, FaceError, short_name, short_repr


@pytest.mark.parametrize("kind", [FaceError, BadRecord])
def test_a_message_is_bounded_and_keeps_its_rule_and_its_advice(kind):
    message = str(kind(f"A name is short. Received: '{'n' * 100_000}'. Make the file again."))

    assert len(message) == MAX_MESSAGE
    assert message.startswith("A name is short. Received: 'nnn") and message.endswith("nnn'. Make the file again.")
    assert str(kind("short")) == "short"
    assert str(pickle.loads(pickle.dumps(kind("from another process")))) == "from another process"


def test_a_name_is_shown_whole_as_far_as_users_must_type_it():
    name = "MobileFaceNet/" + "x" * 150
    assert short_name(name) == repr(name)
    assert len(short_name("n" * 9000)) <= 200
    assert len(short_repr("n" * 9000)) <= 80 and len(short_repr(["n" * 9000] * 9)) <= 80
