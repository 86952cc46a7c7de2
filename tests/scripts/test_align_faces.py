"""align_faces.py: real photos give InsightFace's crops, the tree is kept, a second run does what is missing.

Most tests put a stand-in in the detector's place, which takes any photo that is not dark for one face filling it.
"""

import csv
import fcntl
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import align_faces
import facelib.alignment.align_folders
from facelib.alignment.align import align_face, rank_faces
from facelib.alignment.align_folders import NO_FACE, SETTINGS, SKIPPED, align_folders
from facelib.alignment.detect import Face, FaceDetector
from facelib.alignment.flags import several_note
from facelib.alignment.photos import crop_names
from facelib.cli import run_cli
from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.image_decoding import check_image
from facelib.model_input import TEMPLATE_112, Io
from facelib.photo_folders import PhotoFolder, find_photos
from tests.helpers.slow import slow_unless_quick

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
PHOTOS, CROPS = DATA / "raw" / "photos", DATA / "raw" / "expected_crops"
PRETRAINED = DATA / "pretrained" / "mobilefacenet_relu6_128.onnx"
needs_photos = pytest.mark.needs_data(PHOTOS, PRETRAINED)


class StandIn:
    """In the detector's place: one face as large as the photo; none where the photo is dark."""

    def detect(self, photo):
        if photo.mean() < 16:
            return []
        height, width = photo.shape[:2]
        return [Face((0, 0, width, height), np.array(TEMPLATE_112) * (width / 112, height / 112), 1.0)]


class SlowStandIn(StandIn):
    """As `StandIn`, a tenth of a second a photo."""

    def detect(self, photo):
        time.sleep(0.1)
        return super().detect(photo)


class DyingStandIn(StandIn):
    """Ends its process, as the system does when memory runs out."""

    def detect(self, photo):
        os.kill(os.getpid(), signal.SIGKILL)


def align(root, out, **flags):
    """`align_folders` by one process with the stand-in."""
    return align_folders(
        root, out, **{"rule": "largest", "workers": 1, "progress": False, "make_detector": StandIn} | flags
    )


def picture(seed=0, size=(112, 112)):
    """Smooth colours, uint8 [*size, 3] RGB."""
    blotches = np.random.default_rng(seed).integers(40, 256, (5, 5, 3), np.uint8)
    return cv2.resize(blotches, size[::-1], interpolation=cv2.INTER_CUBIC)


def save(path, image=None, **options):
    """Writes an image with Pillow, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if image is None else image).save(path, **options)
    return path


def read(path):
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)


def tree(folder):
    """All files below `folder` that are not hidden."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def skipped(out):
    with open(out / SKIPPED, newline="", errors="surrogateescape") as file:
        return {row["photo"].removeprefix("'"): row["why"] for row in csv.DictReader(file)}


# ------------------------------------------------------------------------------------------- with the real detector


@needs_photos
def test_real_photos_give_faces_that_embed_as_the_expected_crops(tmp_path, capsys):
    """Every fifth photo. All 150: a face in each, mean cosine 0.978, worst 0.892."""
    from facelib.runtimes.open_embedder import open_embedder

    photos = sorted(PHOTOS.rglob("*.jpg"))[::5]
    for photo in photos:
        link = tmp_path / "photos" / photo.relative_to(PHOTOS)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(photo)

    assert align_faces.main([str(tmp_path / "photos"), str(tmp_path / "out"), "--workers", "1"]) == 0

    names = [p.relative_to(PHOTOS) for p in photos if (tmp_path / "out" / p.relative_to(PHOTOS)).is_file()]
    embed = open_embedder(PRETRAINED, Io(input="input.1", layout="nchw", pixels="imagenet"), 2)
    ours, theirs = (embed(np.stack([read(root / name) for name in names])) for root in (tmp_path / "out", CROPS))
    cosines = np.sum(ours * theirs, axis=1)
    assert len(names) >= 0.97 * len(photos)
    assert cosines.mean() >= 0.9, f"worst: {names[cosines.argmin()]} {cosines.min():.3f}"
    assert f"wrote {tmp_path / 'out'}: {len(names)} crops of {len(photos)} photos" in capsys.readouterr().out


@needs_photos
def test_rotated_photos_give_the_landmarks_of_the_upright_ones():
    """Every fifteenth photo. All 150 rotated by 15, 30, 45 or 90 degrees: mean cosine to the expected crops 0.978."""
    detector = FaceDetector()
    for path in sorted(PHOTOS.rglob("*.jpg"))[::15]:
        photo = read(path)
        points = rank_faces(detector.detect(photo), photo.shape[:2])[0].points
        for degrees in (-45, 30, 90):
            rotation = np.add(cv2.getRotationMatrix2D((124.5, 124.5), degrees, 1.0), [[0, 0, 50], [0, 0, 50]])
            rotated = cv2.warpAffine(photo, rotation, (350, 350), flags=cv2.INTER_CUBIC)
            found = rank_faces(detector.detect(rotated), (350, 350))[0].points
            assert np.abs(found - (points @ rotation[:, :2].T + rotation[:, 2])).max() < 6, (path.name, degrees)


@needs_photos
@pytest.mark.parametrize("degrees", slow_unless_quick([90, 180], [90]))
def test_small_faces_of_rotated_photos_are_not_taken_upside_down(degrees):
    """Every thirtieth photo, reduced to a fraction of another one. BlazeFace alone takes many faces upside down."""
    detector = FaceDetector()
    for path in sorted(PHOTOS.rglob("*.jpg"))[::30]:
        photo = read(path)
        points = rank_faces(detector.detect(photo), photo.shape[:2])[0].points
        turn = np.add(cv2.getRotationMatrix2D((49.5, 49.5), degrees, 1.0), [[0, 0, 250], [0, 0, 250]])
        small = cv2.resize(photo, (100, 100), interpolation=cv2.INTER_AREA)
        found = detector.detect(cv2.warpAffine(small, turn, (600, 600), flags=cv2.INTER_CUBIC))
        expected = ((points + 0.5) * 0.4 - 0.5) @ turn[:, :2].T + turn[:, 2]
        assert found[0].is_sure and np.abs(rank_faces(found, (600, 600))[0].points - expected).max() < 6, path.name


def test_synthetic_faces_are_cut_out_and_nothing_but_the_summary_is_printed(tmp_path):
    for identity in (1, 3):
        photo = np.full((260, 300, 3), 120, np.uint8)
        photo[60:172, 100:212] = synthetic_face(0, identity, 0)
        save(tmp_path / "photos" / f"p{identity}" / "a.png", photo)
    save(tmp_path / "photos" / "p3" / "nobody.png", np.full((200, 200, 3), 120, np.uint8))
    command = [sys.executable, "align_faces.py", str(tmp_path / "photos"), str(tmp_path / "out"), "--no-progress"]

    done = subprocess.run([*command, "--workers", "1"], cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert (done.returncode, done.stderr) == (0, "")
    wrote, skips, one, following = done.stdout.splitlines()
    assert wrote.startswith(f"wrote {tmp_path / 'out'}: 2 crops of 3 photos in ")
    assert skips.startswith("1 photos gave no crop (1 without a face, 0 that cannot be read)")
    assert one == f"  p3/nobody.png: {NO_FACE}"
    assert following == f"next: python prepare_data.py {tmp_path / 'out'} DATA"
    for identity in (1, 3):
        crop, drawn = read(tmp_path / "out" / f"p{identity}" / "a.jpg"), synthetic_face(0, identity, 0)
        likeness = np.corrcoef(cv2.GaussianBlur(crop, (0, 0), 4).ravel(), cv2.GaussianBlur(drawn, (0, 0), 4).ravel())
        assert likeness[0, 1] > 0.8


# ---------------------------------------------------------------------------------------------------- what is read


def test_every_kind_of_image_gives_a_crop_and_what_cannot_be_read_is_listed_with_its_reason(tmp_path):
    root, out = tmp_path / "photos", tmp_path / "out"
    full = picture(1, (224, 224))
    for suffix in ("jpg", "JPEG", "png", "bmp", "webp", "tif"):
        save(root / "kinds" / f"{suffix}.{suffix}", full)
    save(root / "kinds" / "grey.png", full[:, :, 0])
    save(root / "kinds" / "rgba.png", np.dstack([full, np.full((224, 224), 255, np.uint8)]))
    cv2.imwrite(str(root / "kinds" / "deep.png"), full[:, :, ::-1].astype(np.uint16) * 257)
    film = save(root / "kinds" / "film.jpg", full)
    film.write_bytes(film.read_bytes() + bytes(5000))  # as telephones do
    good = {path.stem for path in (root / "kinds").iterdir()}
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"no image",
        "cut.jpg": film.read_bytes()[:2000],
        "phone.heic": b"ftypheic" * 9,
    }
    for name, data in bad.items():
        (root / "kinds" / name).write_bytes(data)
    (root / "kinds" / "broken.jpg").symlink_to("nowhere.jpg")
    save(root / "kinds" / "dark.png", np.zeros((50, 50, 3), np.uint8))
    save(root / "kinds" / "one_pixel.png", np.zeros((1, 1, 3), np.uint8))
    huge = bytearray(save(root / "kinds" / "huge.png").read_bytes())
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    (root / "kinds" / "huge.png").write_bytes(huge)

    outcome = align(root, out)

    assert {Path(name).stem for name in tree(out)} - {"skipped"} == good
    reasons = {Path(photo).name: why for photo, why in skipped(out).items()}
    assert reasons == {Path(photo).name: why for photo, why in outcome.skipped.items()}
    assert reasons.pop("dark.png") == reasons.pop("one_pixel.png") == NO_FACE
    unknown = "neither JPEG nor PNG"
    parts = {"empty.jpg": "empty", "text.jpg": unknown, "phone.heic": unknown, "cut.jpg": "cut short",
             "huge.png": "60000x60000", "broken.jpg": "No such file"}  # fmt: skip
    assert reasons.keys() == parts.keys() and all(parts[name] in why for name, why in reasons.items())
    expected = align_face(full, np.array(TEMPLATE_112) * 2)
    for name in good:
        crop = read(out / "kinds" / f"{name}.jpg")
        wanted = expected[:, :, :1] if name == "grey" else expected
        assert crop.shape == (112, 112, 3) and np.abs(crop.astype(int) - wanted).mean() < 4, name


# How the sensor's rows and columns lie for each value of the EXIF tag 0x112 when the photo is upright after turning.
STORED = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}  # fmt: skip


def test_telephone_photos_are_turned_upright_by_their_exif_tag(tmp_path):
    upright = picture(2)
    for tag, turn in STORED.items():
        exif = Image.Exif()
        exif[0x112] = tag
        save(tmp_path / "photos" / f"{tag}.jpg", np.ascontiguousarray(turn(upright)), exif=exif, quality=95)

    align(tmp_path / "photos", tmp_path / "out")

    for tag in STORED:
        assert np.abs(read(tmp_path / "out" / f"{tag}.jpg").astype(int) - upright).mean() < 4, tag


@pytest.mark.parametrize("trailing", [0, 63, 64, 5000])
def test_a_jpeg_with_something_behind_its_end_is_whole_and_one_without_an_end_is_not(trailing):
    data = cv2.imencode(".jpg", picture(3, (90, 70)))[1].tobytes()

    assert check_image(data + bytes(trailing)) == (90, 70)
    with pytest.raises(Exception, match="cut short"):
        check_image(data[:-2] + bytes(trailing))


# ------------------------------------------------------------------------------------------------- where it is put


def test_the_tree_is_kept_whatever_the_names(tmp_path):
    root, out = tmp_path / "photos", tmp_path / "out"
    names = [
        "Zoë/Zoë_1.jpg",
        "王/面 1.png",
        'a,b/"q"\n.jpg',
        "deep/er/x.jpeg",
        "flat.PNG",
        os.fsdecode(b"latin\xe9/1.jpg"),
    ]
    for name in names:
        save(root / name)
        save(
            root / (name.rsplit("/", 1)[0] + "/dark.png" if "/" in name else "dark.png"), np.zeros((9, 9, 3), np.uint8)
        )
    (root / ".hidden").mkdir()
    save(root / ".hidden" / "x.jpg")
    (root / "notes.txt").write_text("no image")
    os.mkfifo(root / "pipe.jpg")

    first, second = align(root, out), align(root, out)

    crops = {os.path.splitext(name)[0] + ".jpg" for name in names}
    assert tree(out) == crops | {SKIPPED}
    assert set(skipped(out)) == {os.path.join(os.path.dirname(name), "dark.png") for name in names}
    assert (first.num_photos, first.num_written, first.num_faceless) == (12, 6, 6)
    assert "2 files that are not images skipped" in first.notes
    assert (second.num_before, second.num_written, second.num_faceless) == (6, 0, 6)


def test_photos_that_differ_in_their_suffix_have_crops_of_their_own():
    assert crop_names(PhotoFolder("p", ["a.jpg", "a.png", "b.png", "c.JPG"], 0)) == {
        "a.jpg": "a.jpg.jpg", "a.png": "a.png.jpg", "b.png": "b.jpg", "c.JPG": "c.jpg",
    }  # fmt: skip
    with pytest.raises(FaceError, match=r"'p/a\.jpg' and 'p/a\.jpg\.png' would both become 'a\.jpg\.jpg'"):
        crop_names(PhotoFolder("p", ["a.jpg", "a.jpg.png", "a.png"], 0))


def test_crops_inside_the_photos_folder_are_not_taken_for_photos(tmp_path):
    save(tmp_path / "photos" / "p" / "1.jpg")
    out = tmp_path / "photos" / "aligned"

    first, second = align(tmp_path / "photos", out), align(tmp_path / "photos", out)

    assert tree(out) == {"p/1.jpg"}
    assert (first.num_written, second.num_written, second.num_photos) == (1, 0, 1)


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "p").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "photos")

    found = [(folder.name, folder.photos) for folder in find_photos(tmp_path / "photos", tmp_path / "out")]

    assert found == [("", []), ("p", ["1.jpg"]), ("p/up", [])]


def make_place(case, tmp_path):
    """(PHOTOS, OUT) of a case that must be refused."""
    root, out = tmp_path / "photos", tmp_path / "out"
    if case not in ("missing", "empty"):
        save(root / "p" / "1.jpg")
    if case == "empty":
        (root / "p").mkdir(parents=True)
    elif case == "file":
        out.write_text("")
    elif case == "same":
        out = root
    elif case == "around":
        out = tmp_path
    elif case == "around by a link":
        out.symlink_to(tmp_path)
    elif case == "another's":
        save(out / "holiday.jpg")
    elif case == "an identity":
        out = root / "p"
    return root, out


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("missing", "There is no folder at"), ("empty", "There are no photos in"), ("file", "is a file"),
        ("same", "contains PHOTOS"), ("around", "contains PHOTOS"), ("around by a link", "contains PHOTOS"),
        ("another's", "has other files"), ("an identity", "has other files"),
    ],
)  # fmt: skip
def test_a_place_that_would_mix_photos_and_crops_is_refused_untouched(tmp_path, case, match):
    root, out = make_place(case, tmp_path)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(FaceError, match=match):
        align(root, out)

    assert sorted(tmp_path.rglob("*")) == before


# --------------------------------------------------------------------------------------------------- the second run


def test_a_run_killed_while_it_wrote_its_first_file_can_be_run_again(tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "1.jpg"), np.full((112, 112, 3), 99, np.uint8))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".{SETTINGS}.0123456789abcdef.part").write_bytes(b"")

    align(tmp_path / "photos", tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [SETTINGS, "1.jpg"]


def test_crops_are_written_where_a_link_points(tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "1.jpg"), np.full((112, 112, 3), 99, np.uint8))
    (tmp_path / "out").symlink_to("target")
    (tmp_path / "itself").symlink_to("itself")

    align(tmp_path / "photos", tmp_path / "out")

    assert (tmp_path / "target" / "1.jpg").is_file() and (tmp_path / "out").is_symlink()
    with pytest.raises(FaceError, match="leads back to itself"):
        align(tmp_path / "photos", tmp_path / "itself")
    with pytest.raises(FaceError, match="a part of its path is a file"):
        align(tmp_path / "photos", tmp_path / "photos" / "1.jpg" / "out")


def test_a_second_run_does_what_is_missing_and_tries_changed_photos_again(tmp_path):
    root, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(root / name, picture(4))
    for name in ("b/dark.png", "c/dark.png"):
        save(root / name, np.zeros((9, 9, 3), np.uint8))
    first = align(root, out)
    stamp = (out / "a" / "1.jpg").stat().st_mtime_ns
    (out / "a" / "2.jpg").unlink()
    (out / "a" / ".3.jpg.123.part").write_bytes(b"half")  # of a killed run
    time.sleep(0.02)
    save(root / "b" / "dark.png", picture(5))

    second = align(root, out)

    assert (first.num_written, first.num_faceless, first.folders - first.folders_with_crop) == (3, 2, {"c"})
    assert (second.num_before, second.num_written, second.skipped) == (2, 2, {"c/dark.png": NO_FACE})
    assert tree(out) == {"a/1.jpg", "a/2.jpg", "b/1.jpg", "b/dark.jpg", SKIPPED}
    assert (out / "a" / "1.jpg").stat().st_mtime_ns == stamp
    assert not list(out.rglob("*.part"))
    time.sleep(0.02)
    save(root / "c" / "dark.png", picture(6))
    assert align(root, out).num_written == 1
    assert SKIPPED not in tree(out)


def test_crops_by_two_rules_do_not_mix(tmp_path):
    save(tmp_path / "photos" / "1.jpg")
    align(tmp_path / "photos", tmp_path / "out", rule="largest")

    with pytest.raises(FaceError, match=r"made with --face largest\. Received: --face central"):
        align(tmp_path / "photos", tmp_path / "out", rule="central")


class PairStandIn(StandIn):
    """As `StandIn`, and a second face of half the size."""

    def detect(self, photo):
        found = super().detect(photo)
        side = photo.shape[0] // 2
        return [*found, Face((0, 0, side, side), np.array(TEMPLATE_112) * side / 112, 0.9)] if found else []


def test_with_all_every_face_is_cut_out_and_a_second_run_has_nothing_to_do(tmp_path, capsys):
    save(tmp_path / "photos" / "p" / "1.png", picture(1, (224, 224)))
    save(tmp_path / "photos" / "p" / "2.png", picture(2, (224, 224)))
    flags = {"rule": "all", "make_detector": PairStandIn}

    first, second = (align(tmp_path / "photos", tmp_path / "out", **flags) for _ in range(2))

    assert tree(tmp_path / "out") == {"p/1.jpg", "p/1.face2.jpg", "p/2.jpg", "p/2.face2.jpg"}
    assert first.several == {"p/1.png": 2, "p/2.png": 2} and (second.num_before, second.num_written) == (2, 0)
    assert several_note(first.several, "central") == [
        "2 photos show several faces, such as 'p/1.png' (2), 'p/2.png' (2): the face that is large and near the middle "
        "was used (--face largest and --face all choose differently)"
    ]


def test_a_photo_whose_crop_would_take_the_name_of_another_face_is_refused(tmp_path):
    save(tmp_path / "photos" / "1.png")
    save(tmp_path / "photos" / "1.face2.png")

    with pytest.raises(
        FaceError, match=r"'1\.face2\.png' has the name that the crop of a second face in '1\.png' may get: rename"
    ):
        align(tmp_path / "photos", tmp_path / "out", rule="all")
    assert align(tmp_path / "photos", tmp_path / "other").num_written == 2


def test_faces_of_low_quality_are_listed_with_their_numbers(tmp_path):
    save(tmp_path / "photos" / "good.png", np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    save(tmp_path / "photos" / "small.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    save(tmp_path / "photos" / "blurred.png", picture(1, (224, 224)))

    outcome = align(tmp_path / "photos", tmp_path / "out", min_quality=0.4)

    assert tree(tmp_path / "out") == {"good.jpg", SKIPPED} and outcome.num_low == 2
    reasons = skipped(tmp_path / "out")
    assert reasons["small.png"].startswith("quality 0.36 (size 0.36, sharpness ")
    assert reasons["blurred.png"].startswith("quality 0.18 (size 1.00, sharpness 0.18")
    with pytest.raises(FaceError, match=r"made with --min-quality 0\.4\. Received: --min-quality 0\.0"):
        align(tmp_path / "photos", tmp_path / "out")


def test_two_runs_at_once_are_refused(tmp_path):
    save(tmp_path / "photos" / "1.jpg")
    (tmp_path / "out").mkdir()
    handle = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(FaceError, match=r"is writing .* now"):
            align(tmp_path / "photos", tmp_path / "out")
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    "signal_", slow_unless_quick([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [signal.SIGKILL])
)
def test_a_run_that_is_ended_leaves_whole_crops_and_no_process_and_the_next_one_goes_on(tmp_path, signal_):
    root, out = tmp_path / "photos", tmp_path / "out"
    for i in range(24):
        save(root / f"p{i % 4}" / f"{i:02d}.jpg", picture(i))
    code = "import sys; from tests.scripts.test_align_faces import *; run_slowly(sys.argv[1], sys.argv[2])"
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(out)], stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.jpg"))) < 3:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    workers = children(run.pid)

    run.send_signal(signal_)
    code, stderr = run.wait(60), run.stderr.read().decode()

    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    crops = list(out.rglob("[0-9]*.jpg"))
    assert workers and 3 <= len(crops) < 24
    assert all(read(path).shape == (112, 112, 3) for path in crops)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[signal_]
    if signal_ != signal.SIGKILL:  # of which Python's own resource tracker complains
        assert stderr == ("interrupted\n" if signal_ == signal.SIGINT else "")
    rest = align(root, out)
    assert (rest.num_before, rest.num_written) == (len(crops), 24 - len(crops))
    assert not list(out.rglob("*.part"))


def run_slowly(root, out):
    """What the test above runs in a process of its own."""
    facelib.alignment.align_folders.align_folders = partial(align_folders, make_detector=SlowStandIn)
    run_cli(lambda: align_faces.main([root, out, "--face", "largest", "--workers", "2", "--no-progress"]))


def children(pid):
    """Processes started by `pid`, and theirs."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return found + [below for child in found for below in children(child)]


def test_a_process_that_dies_is_one_line_and_nothing_is_lost(tmp_path):
    save(tmp_path / "photos" / "1.jpg")

    with pytest.raises(FaceError, match="fewer --workers"):
        align(tmp_path / "photos", tmp_path / "out", make_detector=DyingStandIn)

    assert align(tmp_path / "photos", tmp_path / "out").num_written == 1


# ------------------------------------------------------------------------------------------------------ the command


def test_a_folder_without_a_single_face_is_an_error_that_names_the_list(tmp_path, monkeypatch):
    save(tmp_path / "photos" / "1.png", np.zeros((9, 9, 3), np.uint8))
    monkeypatch.setattr(facelib.alignment.align_folders, "align_folders", partial(align_folders, make_detector=StandIn))

    with pytest.raises(FaceError, match=r"No face was found in any photo.*skipped\.csv"):
        align_faces.main([str(tmp_path / "photos"), str(tmp_path / "out"), "--workers", "1"])


def test_flat_folders_have_another_next_step_and_the_summary_names_lost_folders(tmp_path, capsys):
    for name, value in (("flat/1.png", 200), ("tree/a/1.png", 200), ("tree/b/1.png", 0)):
        save(tmp_path / name, np.full((9, 9, 3), value, np.uint8))

    for name in ("flat", "tree"):
        align_faces.print_summary(align(tmp_path / name, tmp_path / f"{name}_out"), tmp_path / f"{name}_out", 2.0)
    align_faces.print_summary(align(tmp_path / "flat", tmp_path / "flat_out"), tmp_path / "flat_out", 2.0)

    printed = capsys.readouterr().out
    assert (
        f"wrote {tmp_path / 'flat_out'}: 1 crops of 1 photos in 2 s, 0.5 a second\nnext: python predict.py" in printed
    )
    assert "1 of 2 folders have no crop at all, such as 'b'" in printed
    assert f"no new crop: {tmp_path / 'flat_out'} has 1 crops of 1 photos" in printed


@pytest.mark.parametrize("flags", [["--workers", "0"], ["--workers", "-1"]])
def test_flags_that_cannot_be_are_refused(flags):
    with pytest.raises(FaceError, match="Received: --workers"):
        align_faces.parse_args(["photos", "out", *flags])


def test_a_name_that_is_a_formula_is_text_in_a_spreadsheet(tmp_path):
    (tmp_path / "photos" / "p").mkdir(parents=True)
    (tmp_path / "photos" / "=cmd|' -c calc'!A0.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "'=1.jpg").write_bytes(b"no image")
    save(tmp_path / "photos" / "p" / "1.jpg")

    first, second = align(tmp_path / "photos", tmp_path / "out"), align(tmp_path / "photos", tmp_path / "out")

    lines = (tmp_path / "out" / SKIPPED).read_text(encoding="utf-8").splitlines()
    assert [line[:3] for line in lines[1:]] == ["''=", "'=c"]
    assert first.skipped == second.skipped and set(first.skipped) == {"=cmd|' -c calc'!A0.jpg", "'=1.jpg"}
