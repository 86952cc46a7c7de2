"""The errors of the project: `FaceError` for what the user can mend, `BadRecord` for one unreadable record."""


class FaceError(Exception):
    """Something the user can mend. One line: the rule, what was received, what to do next."""


class BadRecord(ValueError):
    """Why one record cannot be read. A caller that knows the file and the record number makes it a `FaceError`."""
