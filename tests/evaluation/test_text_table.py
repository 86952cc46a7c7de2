"""Tables as text: columns that line up, in the terminal and in Markdown."""

from facelib.evaluation.results import format_markdown_table, format_text_table

ROWS = [["set", "ACC", "VR"], ["lfw", "99.37", "98.7"], ["agedb_30", "9", ""]]


def test_leading_columns_are_flush_left_and_the_others_flush_right():
    assert format_text_table(ROWS, num_left=1).splitlines() == [
        "set      |   ACC |   VR",
        "---------+-------+-----",
        "lfw      | 99.37 | 98.7",
        "agedb_30 |     9 |",
    ]


def test_all_columns_may_be_flush_left():
    assert format_text_table(ROWS, num_left=3).splitlines()[2:] == [
        "lfw      | 99.37 | 98.7",
        "agedb_30 | 9     |",
    ]


def test_markdown_says_which_columns_are_flush_right():
    assert format_markdown_table(ROWS, num_left=1).splitlines() == [
        "| set      |   ACC |   VR |",
        "|----------|------:|-----:|",
        "| lfw      | 99.37 | 98.7 |",
        "| agedb_30 |     9 |      |",
    ]
