"""A browser without a network shows the pages: every picture, no overflow, light or dark.

Chromium is not installed with the project: apt-get install chromium
"""

import html
import json
import re
import subprocess

import compare_runs
import pytest

import report
from facelib.evaluation.projector import write_maps
from facelib.files import sha256_of
from tests.helpers.chromium import CHROMIUM, FLAGS
from tests.helpers.simulated_runs import build_run, simulated_map, write_faces

SCHEMES = {"dark": ("0", "rgb(13, 17, 23)"), "light": ("1", "rgb(246, 248, 250)")}  # Chromium's number, our ground
pytestmark = pytest.mark.needs_tool("chromium")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{kind: HTML} of a run and of two runs compared."""
    folder = tmp_path_factory.mktemp("pages")
    write_faces(folder)
    runs = [
        build_run(folder / "a_run", folder, has_folder_set=True),
        build_run(folder / "another_run", folder, margin=0.4, flip=True),
    ]
    write_maps(runs[0] / "embedder.h5.map", [simulated_map(sha256_of(folder / "toy.bin"))], None)
    report.main([str(runs[0])])
    compare_runs.main([*map(str, runs), "--out", str(folder / "compare.html")])
    return {"run": (runs[0] / "report.html").read_text(), "comparison": (folder / "compare.html").read_text()}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_every_picture_is_shown_and_no_page_is_wider_than_the_screen(pages, tmp_path, kind, width, scheme):
    measure = """
        const page = document.querySelector('iframe').contentDocument, images = [...page.images];
        const isDrawn = image => image.complete && image.naturalWidth > 0;
        const sources = images.filter(image => image.previousElementSibling?.tagName === 'SOURCE');
        document.title = JSON.stringify({
            width: page.documentElement.scrollWidth,
            drawn: images.filter(isDrawn).length,
            figures: sources.length,
            marks: [...page.querySelectorAll('svg g')].filter(mark => mark.getBoundingClientRect().width > 0).length,
            dark: sources.filter(image => image.currentSrc === image.previousElementSibling.srcset).length,
            ground: page.defaultView.getComputedStyle(page.body).backgroundColor,
        });
    """
    number, ground = SCHEMES[scheme]
    probe = tmp_path / "probe.html"  # the page in a frame of that width, and what is measured of it as the title
    frame = f'<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{html.escape(pages[kind])}"></iframe>'
    head = '<!doctype html><meta name="color-scheme" content="light dark">'
    probe.write_text(f"{head}{frame}<script>onload = () => {{ {measure} }}</script>")

    dump = subprocess.run(
        [CHROMIUM, *FLAGS, "--window-size=1300,900", f"--blink-settings=preferredColorScheme={number}",
         f"--user-data-dir={tmp_path}/chromium", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    found = json.loads(re.search(r"<title>(.+?)</title>", dump.stdout)[1])
    assert found["width"] <= width
    assert found["drawn"] == pages[kind].count("<img ")
    assert found["figures"] == pages[kind].count("<source ") == {"run": 17, "comparison": 10}[kind]
    assert found["marks"] == {"run": 120, "comparison": 0}[kind]
    assert found["dark"] == (found["figures"] if scheme == "dark" else 0)
    assert found["ground"] == ground
