"""Names of identities in little memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from facelib.data.record_reader import Names


@given(st.lists(st.text(max_size=8)))
def test_names_are_the_list_they_were_made_from(names):
    packed = Names(names)
    assert list(packed) == names
    assert [packed[i - len(names)] for i in range(len(names))] == names
    assert packed[1:-1] == names[1:-1]
    assert packed == names and packed == Names(names)
    assert packed != [*names, "another"]


def test_file_names_that_are_no_text_are_kept_as_python_has_them():
    assert list(Names([b"caf\xe9", "", "caf\udce9"])) == ["caf\udce9", "", "caf\udce9"]


def test_a_name_takes_its_letters_and_four_bytes():
    tracemalloc.start()
    packed = Names(f"m.{i:08x}" for i in range(50_000))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(packed) == 50_000
    assert used < 50_000 * 17  # both grow an eighth ahead of need


def test_more_text_than_four_bytes_can_count_is_counted_with_eight(monkeypatch):
    monkeypatch.setattr("facelib.data.record_reader._MOST", 20)
    names = [f"name {i}" for i in range(50)]
    assert list(Names(names)) == names
