"""The mean line of several sets: formulas written anew, and the figures of a printed table."""

import statistics

import pytest

from facelib.evaluation.set_means import format_means, mean_of_sets


def test_rfw_has_a_line_of_its_own_with_the_population_deviation():
    acc = {"lfw": 0.995, "cfp_fp": 0.92, "agedb_30": 0.96, "rfw_African": 0.95, "RFW_Asian": 0.948, "rfw_Indian": 0.96}

    sets, rfw = mean_of_sets(acc)

    assert (sets.name, sets.count) == ("", 3) and sets.acc == pytest.approx(statistics.fmean([0.995, 0.92, 0.96]))
    assert (rfw.name, rfw.count) == ("rfw", 3) and rfw.acc_std == pytest.approx(statistics.pstdev([0.95, 0.948, 0.96]))
    assert format_means([sets, rfw]) == (
        "mean of 3 sets: ACC 0.9583\nrfw: mean of 3 groups: ACC 0.9527, standard deviation between groups 0.52 points"
    )


def test_one_set_has_no_mean():
    assert mean_of_sets({"lfw": 0.99, "rfw_Asian": 0.9}) == [] and format_means([]) == ""
