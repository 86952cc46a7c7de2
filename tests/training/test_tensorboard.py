"""A profile of some steps in the middle of a training, and one that the training is too short for."""

from dataclasses import replace

import pytest

from facelib.training.progress import ProfileSteps
from tests.helpers.training_runs import RECIPE, STAGE, fit


@pytest.mark.parametrize("epochs, count, written", [(5, 2, 2), (4, 50, 2), (1, 2, 0)])
def test_a_profile_is_of_the_steps_after_the_first_ten(tmp_path, capsys, epochs, count, written):
    recipe = replace(RECIPE, stage=(replace(STAGE, epochs=epochs),))
    _, is_complete = fit(tmp_path / "run", recipe, callbacks=[ProfileSteps(tmp_path / "profile", count)])

    assert is_complete
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == bool(written)
    output = capsys.readouterr().out
    assert (f"wrote a profile of {written} steps" in output) == bool(written)
    assert ("no profile was written: it starts after 10 steps, but" in output) == (not written)
