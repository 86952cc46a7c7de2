"""A process that is killed at one of its renames, for tests of files that are put into place."""

import os


def kill_at_replace(monkeypatch, number):
    """Makes the `number`-th call of os.replace, from 0, end like a kill. Returns the list of those done before."""
    replaced, replace = [], os.replace

    def killed(part, path):
        if len(replaced) == number:
            raise KeyboardInterrupt
        replaced.append(path)
        replace(part, path)

    monkeypatch.setattr("os.replace", killed)
    return replaced
