"""The maps of a page: every face once, by identity and by error, with small pictures that do not cover each other."""

import re

import numpy as np
import pytest

import report as script
from facelib.evaluation.projector import write_maps
from facelib.files import sha256_of
from facelib.reports import run_page
from facelib.reports.face_maps import PICTURE, by_error, by_identity
from tests.helpers.simulated_runs import build_run, name_figure, simulated_map, write_faces


def test_the_first_map_has_a_colour_for_each_identity_and_pictures_with_room():
    picture = by_identity(simulated_map(), "model.h5", with_faces=True)

    assert len(picture.marks) == 60 and len({mark.hue for mark in picture.marks}) == 10
    assert "60 of 12,000 faces" in picture.caption and "model.h5" in picture.caption
    pictured = [mark for mark in picture.marks if mark.jpeg]
    assert 20 < len(pictured) < 60 and picture.marks[-len(pictured) :] == pictured  # above the dots
    for i, one in enumerate(pictured):
        assert all(max(abs(one.x - two.x), abs(one.y - two.y)) >= PICTURE for two in pictured[:i])
    assert all(PICTURE / 2 <= value <= 1000 - PICTURE / 2 for mark in picture.marks for value in (mark.x, mark.y))
    assert not any(mark.jpeg for mark in by_identity(simulated_map(), "model.h5", with_faces=False).marks)


def test_a_flat_map_has_no_empty_space_above_and_below():
    flat = simulated_map()
    flat.places[:, 1] = np.linspace(0.4, 0.6, 60)

    assert by_identity(flat, "model.h5", with_faces=True).view == "0 368.0 1000 264.0"  # 40 around 408 to 592


def test_the_second_map_marks_the_errors_and_joins_them_with_the_other_face():
    picture = by_error(simulated_map(), "model.h5", with_faces=True)

    kinds = [mark.kind for mark in picture.marks]
    assert kinds == ["right"] * 57 + kinds[57:] and sorted(kinds[57:]) == ["accept", "accept", "reject"]
    titles = [mark.title for mark in picture.marks if mark.kind != "right"]
    assert "<person 0> · 3.jpg · false accept with 4.jpg" in titles
    assert len(picture.lines) == 2 and "3 of 60 faces" in picture.caption
    assert "Orange: faces in a pair of different people" in picture.caption and "blue and square" in picture.caption


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_page, "draw_figure", name_figure)
    write_faces(tmp_path)
    return build_run(tmp_path / "a_run", tmp_path)


def test_a_page_has_the_maps_of_the_artefact_and_set_that_were_tested(run, tmp_path):
    write_maps(run / "embedder.h5.map", [simulated_map(sha256_of(tmp_path / "toy.bin"))], None)
    write_maps(run / "export" / "frozen.pb.map", [simulated_map("of another set")], None)

    script.main([str(run)])

    text = (run / "report.html").read_text()
    assert re.findall(r'aria-label="([^"]+)"', text) == ["map of toy by identity", "map of toy by error"]
    assert text.count("<title>&lt;person ") == 120 and "<person" not in text
    assert text.count("<image ") > 20 and not re.search(r'href="(?!data:image/)', text)
    script.main([str(run), "--no-faces"])
    text = (run / "report.html").read_text()
    assert "<image " not in text and text.count("<circle ") == 119 and text.count("<title>&lt;person ") == 120
