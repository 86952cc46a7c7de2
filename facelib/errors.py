"""The errors of the project: what the user can mend, and one record that cannot be read."""


class FaceError(Exception):
    """Something the user can mend. One line: the rule, what was received, what to do next."""


class BadRecord(ValueError):
    """Why one record cannot be read. Whoever knows the file and the record number makes it a `FaceError`."""
