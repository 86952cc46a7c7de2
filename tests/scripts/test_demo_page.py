"""docs/demo: the built page embeds and decides as Python does, asks nobody else, and says what is wrong."""

import importlib.util
import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import h5_2_pb
import import_model
import pb_2_tflite
from facelib.alignment.align import cut_faces
from facelib.alignment.detect import FaceDetector
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.errors import FaceError
from facelib.evaluation.keep_thresholds import write_thresholds
from facelib.export import optimize
from facelib.files import write_json
from facelib.model_input import Io
from facelib.recognition.decision import decide_by
from facelib.recognition.photo_embeddings import unit_vectors
from facelib.runtimes.keras_h5 import save_h5
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import check_sidecar, read_sidecar, write_sidecar
from tests.helpers.chromium import Page
from tests.helpers.placed_faces import synthetic_photo

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "docs" / "demo"
DATA = ROOT.parent / "shared" / "data"
PRETRAINED = DATA / "pretrained" / "mobilefacenet_relu6_128.onnx"
PHOTOS, CROPS = DATA / "raw" / "photos", DATA / "raw" / "expected_crops"


def needs_chromium(test):
    """Marks a test that opens the page in a browser; starting it takes as long as twenty other tests."""
    return pytest.mark.slow(pytest.mark.needs_tool("chromium")(test))


needs_faces = pytest.mark.needs_data(PRETRAINED, PHOTOS)
MIN_COSINE = 0.999
STARTED = "document.querySelector('#status')?.hidden"
REFUSED = "document.querySelector('#status')?.classList.contains('error')"

spec = importlib.util.spec_from_file_location("demo_build", DEMO / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


# --------------------------------------------------------------------------------------------------------- models


def calibrate(model, distance, flip=False):
    """Thresholds as a test script writes them."""
    ends = {"distance_ci95": [distance * 0.9, distance * 1.1], "far_ci95": [5e-4, 2e-3], "vr": 0.9, "vr_ci95": [0.8, 1]}
    at = {"0.001": {"distance": distance, "cosine": 1 - distance / 2, **ends}}
    write_thresholds(model, {"toy": {"sha256": "0", "impostors": 3000, "flip": flip, "far": at}})


def export(h5, *modes):
    """The .tflites of an embedder.h5, by the export scripts."""
    folder = h5.parent / "export"
    assert h5_2_pb.main([str(h5)]) == optimize.main([str(folder / "frozen.pb")]) == 0
    for mode in modes:
        assert pb_2_tflite.main([str(folder / "optimized.pb"), "--mode", mode]) == 0
    return [folder / f"model_{mode}.tflite" for mode in modes]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small net with random weights that tells faces apart, {mode: .tflite}; the dynamic one adds mirrored faces."""
    import keras

    from mobilefacenet import mobilefacenet
    from tests.helpers.random_weights import random_weights

    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(0)
    net = random_weights(mobilefacenet(embedding_size=32, width=0.25), spread=0.5)
    save_h5(net, folder / "embedder.h5")
    write_sidecar(folder / "embedder.h5", kind="h5", made_from=None, io=Io(), licence="none", training_data="<drawn>")
    found = dict(zip(("float", "dynamic"), export(folder / "embedder.h5", "float", "dynamic"), strict=True))
    calibrate(found["float"], 0.3)
    calibrate(found["dynamic"], 0.2, flip=True)
    return found


@pytest.fixture(scope="module")
def packages():
    """What the npm registry gives; without npm or network the tests of the page are skipped."""
    try:
        return build.install_packages()
    except FaceError as error:
        pytest.skip(f"needs_tool: {error}")


def expected(model, faces):
    """What predict.py computes of uint8 [N, 112, 112, 3]."""
    embedder = open_embedder(model, check_sidecar(model).io, 1)
    return unit_vectors(embedder, faces, decide_by(model, None, None).flip, [""] * len(faces))


# ---------------------------------------------------------------------------------------------- server and browser


class Site:
    """A folder served on a free port of localhost. `asked`: the paths that were asked for."""

    def __init__(self, folder):
        asked = self.asked = []

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://localhost:{self.server.server_port}/"


class Demo:
    """The built page of `folder`, opened in the browser's tab."""

    def __init__(self, folder, page):
        self.site, self.page = Site(folder), page
        self.open()

    def open(self):
        self.page.requests.clear()
        self.page.send("Page.navigate", url=self.site.url)
        self.page.wait_for(f"{STARTED} || {REFUSED}")

    def text(self, selector):
        return self.page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def slots(self, script):
        """What `script` says of the page's `slots`."""
        return self.page.evaluate(f"import('./app.js').then(({{slots}}) => {script})")

    def choose(self, slot, path):
        """Puts a file into slot 0 or 1 and waits for its embedding, or its error: [D] or None."""
        request = self.slots(f"slots[{slot}].request") + 1
        self.page.choose_file(f".slot:nth-child({slot + 1}) input", path)
        return self.settled(slot, request)

    def settled(self, slot, request):
        """The embedding, or None, once the slot has finished this request."""
        ready = f"slots[{slot}].request >= {request} && !slots[{slot}].root.hasAttribute('aria-busy')"
        self.page.wait_for(f"import('./app.js').then(({{slots}}) => {ready})")
        return self.slots(f"slots[{slot}].embedding && Array.from(slots[{slot}].embedding)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser whose camera sees a synthetic face on a grey wall."""
    folder = tmp_path_factory.mktemp("browser")
    frame = np.full((480, 640, 3), 100, np.uint8)
    frame[100:380, 180:460] = cv2.resize(synthetic_face(7, 0, 1), (280, 280), interpolation=cv2.INTER_CUBIC)
    (folder / "camera.mjpeg").write_bytes(encode_jpeg(frame, 95))
    camera = f"--use-file-for-fake-video-capture={folder}/camera.mjpeg"
    page = Page(folder / "profile", "--use-fake-device-for-media-stream", camera)
    yield page
    page.close()


@pytest.fixture(scope="module")
def sites(models, packages, tmp_path_factory):
    """{mode: folder of the built page}."""
    folders = {mode: tmp_path_factory.mktemp("site") / mode for mode in models}
    for mode, folder in folders.items():
        assert build.main([str(models[mode]), "--out", str(folder)]) == 0
    return folders


@pytest.fixture
def demo(sites, page):
    return Demo(sites["float"], page)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Drawn faces as crops: pixels, and their files as PNG and JPEG."""
    folder = tmp_path_factory.mktemp("faces")
    pixels = np.stack([synthetic_face(7, k // 2, k % 2) for k in range(6)])
    files = []
    for k, face in enumerate(pixels):
        files.append(folder / f"{k}.{'jpg' if k == 5 else 'png'}")
        data = encode_jpeg(face, 95) if k == 5 else cv2.imencode(".png", face[:, :, ::-1])[1].tobytes()
        files[-1].write_bytes(data)
    pixels[5] = cv2.imread(str(files[5]), cv2.IMREAD_COLOR_RGB)
    return SimpleNamespace(pixels=pixels, files=files, folder=folder)


# ----------------------------------------------------------------------------------------------------- the numbers


@needs_chromium
@pytest.mark.parametrize("mode", ["float", "dynamic"])
def test_the_page_embeds_and_decides_as_python_does(sites, models, page, faces, mode):
    vectors = expected(models[mode], faces.pixels)
    decision = decide_by(models[mode], None, None)
    demo = Demo(sites[mode], page)
    for k in range(0, len(vectors), 2):
        a, b = demo.choose(0, faces.files[k]), demo.choose(1, faces.files[k + 1])

        for got, wanted in ((a, vectors[k]), (b, vectors[k + 1])):
            assert np.dot(got, wanted) >= MIN_COSINE
            assert np.linalg.norm(got) == pytest.approx(1, abs=1e-5)
        distance = float(np.square(np.subtract(a, b)).sum())
        assert demo.text("#answer") == ("same person" if distance <= decision.distance else "different people")
        assert demo.text("#numbers") == f"distance {distance:.4f}, cosine {1 - distance / 2:.4f}"
    assert demo.text("#threshold") == str(decision)
    assert re.search(r"embedded in [\d.]+ ms", demo.text(".slot .seen"))
    others = vectors @ vectors.T - np.eye(len(vectors))
    assert others.max() < MIN_COSINE  # one face for another would be seen
    assert decision.flip == (mode == "dynamic")


@needs_chromium
@pytest.mark.parametrize(("step", "verdict"), [(0.01, "same person"), (-0.01, "different people")])
def test_the_verdict_is_the_thresholds(page, models, faces, packages, tmp_path, step, verdict):
    threshold = float(np.square(np.subtract(*expected(models["float"], faces.pixels[:2]))).sum()) + step
    assert build.main([str(models["float"]), "--out", str(tmp_path / "site"), "--threshold", str(threshold)]) == 0
    demo = Demo(tmp_path / "site", page)

    demo.choose(0, faces.files[0])
    demo.choose(1, faces.files[1])

    assert demo.text("#answer") == verdict
    assert demo.text("#threshold") == f"threshold {threshold:.4f}, given"


@needs_chromium
def test_a_photo_is_aligned_as_its_face_was_drawn(demo, models, faces, tmp_path):
    crop = faces.pixels[1]
    turn = np.add(cv2.getRotationMatrix2D((56, 56), 20, 2.0), [[0, 0, 344], [0, 0, 244]])
    photo = cv2.warpAffine(crop, turn, (800, 600), borderValue=(90, 120, 90))

    got = demo.choose(0, write_png(tmp_path / "photo.png", photo))

    assert "face found and aligned" in demo.text(".slot .seen")
    seen = demo.page.evaluate(
        "import('./faces.js').then((m) => Array.from(m.pixelsOf(document.querySelector('.seen canvas'))))"
    )
    middle = np.s_[20:100, 20:92]
    difference = np.abs(np.reshape(seen, crop.shape)[middle].astype(int) - crop[middle]).mean()
    assert difference < np.abs(faces.pixels[3][middle].astype(int) - crop[middle]).mean() / 2
    assert got is not None


@needs_chromium
@pytest.mark.parametrize("case", ["group", "turned", "small"])
def test_the_page_takes_the_face_that_python_takes(demo, models, tmp_path, case):
    """Side by side, turned by 180 degrees, or a sixtieth of a large photo: the same face, nearly the same crop."""
    if case == "group":
        photo = np.concatenate([synthetic_photo(1, 0, 1.6)[0], synthetic_photo(3, 5, 1.2)[0]], axis=1)[:, 80:]
    elif case == "turned":
        photo = np.ascontiguousarray(synthetic_photo(1, 5, 0.6, (640, 600))[0][::-1, ::-1])
    else:
        photo = np.full((1333, 2000, 3), 120, np.uint8)
        photo[900:1200, 1500:1820] = synthetic_photo(1, 0, 33 / 80)[0]
    crops, num_faces = cut_faces(photo, FaceDetector())
    (wanted,) = expected(models["float"], crops[0].pixels[None])

    got = demo.choose(0, write_png(tmp_path / "photo.png", photo))

    said = demo.text(".slot .seen")
    assert ("2 faces found, the central one taken" in said) == (num_faces == 2) == (case == "group"), said
    assert np.dot(got, wanted) > 0.9


@pytest.mark.slow
@needs_chromium
@needs_faces
def test_faces_of_real_photos_are_found(page, packages, tmp_path):
    h5 = tmp_path / "embedder.h5"
    assert import_model.main([str(PRETRAINED), str(h5)]) == 0
    (model,) = export(h5, "float")
    calibrate(model, 1.3)
    photos = sorted(PHOTOS.rglob("*.jpg"))[:12]
    crops = [next(CROPS.glob(f"{path.relative_to(PHOTOS).with_suffix('')}.*")) for path in photos]
    wanted = expected(model, np.stack([cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in crops]))
    assert build.main([str(model), "--out", str(tmp_path / "site")]) == 0
    demo = Demo(tmp_path / "site", page)

    same = [np.dot(demo.choose(0, path), vector) for path, vector in zip(crops, wanted, strict=True)]
    found = [np.dot(demo.choose(1, path), vector) for path, vector in zip(photos, wanted, strict=True)]

    assert min(same) >= MIN_COSINE
    detector = FaceDetector()
    ours = [cut_faces(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), detector)[0][0].pixels for path in photos]
    in_python = np.sum(expected(model, np.stack(ours)) * wanted, axis=1)
    assert np.median(found) > 0.95  # 0.09 if the whole photo is reduced to 112x112
    assert np.median(np.abs(found - in_python)) < 0.01


# ------------------------------------------------------------------------------------------------------ on the device


@needs_chromium
def test_no_request_leaves_the_folder_that_is_served(demo, faces):
    demo.choose(0, faces.files[0])
    demo.page.evaluate("document.querySelector('#examples button').click()")
    stranger = Site(DEMO)

    blocked = demo.page.evaluate(f"fetch('{stranger.url}').then(() => false, () => true)")

    assert blocked and not stranger.asked
    own = [url for url in demo.page.requests if url != stranger.url]
    assert len(own) >= 12 and all(url.startswith((demo.site.url, "data:")) for url in own)
    assert {demo.site.url + name for name in ("runtime/litert_wasm_internal.wasm", "face_points.tflite")} <= set(own)
    stranger.server.shutdown()


# --------------------------------------------------------------------------------------------------------- mistakes


NO_PHOTO = "A photo must be a JPEG, PNG or other image file. '{}' cannot be read."
NO_FACE = "A photo must show a face. No face was found in '{}' (200x300): use a photo with a larger face."
WALL = cv2.imencode(".png", np.full((200, 300, 3), 127, np.uint8))[1].tobytes()
ALERTS = "[...document.querySelectorAll('[role=alert]')].filter((line) => !line.hidden).map((line) => line.innerText)"


@needs_chromium
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("holiday.jpg", b"no picture", NO_PHOTO), ("empty.png", b"", NO_PHOTO), ("wall.png", WALL, NO_FACE)],
)
def test_an_unusable_photo_is_one_message_and_no_verdict(demo, faces, tmp_path, name, content, message):
    demo.choose(0, faces.files[0])
    demo.choose(1, faces.files[1])
    (tmp_path / name).write_bytes(content)

    assert demo.choose(1, tmp_path / name) is None

    assert demo.page.evaluate(ALERTS) == [message.format(name)]
    assert demo.text("#answer") == "Choose another face"
    assert demo.choose(1, faces.files[1]) is not None
    assert demo.page.evaluate(ALERTS) == []


def remove(pattern):
    return lambda site: [path.unlink() for path in site.glob(pattern)]


def overwrite(pattern, data):
    return lambda site: [path.write_bytes(data) for path in site.glob(pattern)]


@needs_chromium
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model-*.tflite"), r"'model-\w+\.tflite' cannot be loaded \(404\)\. Build"),
        (overwrite("model-*.tflite", b"nonsense"), r"LiteRT\.js cannot run 'model-\w+\.tflite' .*Build"),
        (remove("demo.json"), r"'demo\.json' cannot be loaded \(404\)\. Build"),
        (overwrite("demo.json", b"{"), r"'demo\.json' is damaged .*Build"),
        (remove("runtime/*internal.wasm"), r"The runtime cannot be loaded.*Build"),
        (remove("runtime/*internal.js"), r"The runtime cannot be loaded.*Build"),
    ],
)
def test_a_missing_or_damaged_part_is_one_message(sites, page, tmp_path, spoil, message):
    site = shutil.copytree(sites["float"], tmp_path / "site")
    spoil(site)

    demo = Demo(site, page)

    assert re.match(message, demo.text("#status"))
    assert page.evaluate("document.querySelector('#slots').inert")


# --------------------------------------------------------------------------------------------- camera, drop, keyboard


@needs_chromium
def test_a_camera_frame_is_compared_and_a_refused_camera_is_one_message(demo, page):
    allow = partial(page.send, "Browser.setPermission", permission={"name": "camera"})
    allow(setting="denied")
    page.evaluate("document.querySelector('.camera').click()")
    page.wait_for("!document.querySelector('.error').hidden")
    assert demo.text(".error").startswith("The camera was not allowed. Allow it")

    allow(setting="granted")
    page.evaluate("document.querySelector('.camera').click()")
    page.wait_for("document.querySelector('video').videoWidth > 0 && document.activeElement.className === 'take'")
    page.evaluate("document.activeElement.click()")

    assert demo.settled(0, demo.slots("slots[0].request")) is not None
    assert demo.text(".slot .seen").startswith("camera\nface found and aligned")
    assert page.evaluate("document.querySelector('video').srcObject") is None  # its light is out


@needs_chromium
def test_a_photo_can_be_dropped(demo, models, faces):
    before = demo.page.evaluate("import('./app.js').then(({slots}) => slots[1].request)")
    demo.page.evaluate(
        "fetch('face_1_0.png').then((response) => response.blob()).then((blob) => {"
        "  const dataTransfer = new DataTransfer(); dataTransfer.items.add(new File([blob], 'dropped.png'));"
        "  const event = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true });"
        "  document.querySelector('.slot:nth-child(2) .invitation').dispatchEvent(event);"
        "  if (!event.defaultPrevented) throw new Error('the browser would leave the page'); })"
    )

    got = demo.settled(1, before + 1)

    assert np.dot(got, expected(models["float"], synthetic_face(0, 1, 0)[None])[0]) >= MIN_COSINE
    assert demo.text(".slot:nth-child(2) .seen").startswith("dropped.png")


@needs_chromium
def test_the_keyboard_reaches_everything(demo):
    reached = []
    for _ in range(7):
        for kind in ("keyDown", "keyUp"):
            demo.page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(demo.page.evaluate("document.activeElement.type || document.activeElement.tagName"))

    assert reached == ["file", "button", "file", "button", "button", "button", "SUMMARY"]


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (390, "dark"), (1200, "light")])
def test_nothing_hangs_over_the_edge_and_the_colours_are_the_systems(demo, faces, width, scheme):
    demo.page.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    demo.page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    demo.page.evaluate("document.querySelector('details').open = true")
    demo.choose(0, faces.files[0])
    demo.choose(1, faces.files[1])

    assert demo.page.evaluate("document.documentElement.scrollWidth") <= width
    ground = {"dark": "rgb(13, 17, 23)", "light": "rgb(246, 248, 250)"}[scheme]
    assert demo.page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


# ----------------------------------------------------------------------------------------------------------- build.py


def test_a_model_that_the_page_cannot_run_is_one_line(models, tmp_path):
    bare = shutil.copy(models["float"], tmp_path / "bare.tflite")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    blind = shutil.copy(models["float"], tmp_path / "blind.tflite")
    sidecar = json.loads(read_sidecar(models["float"]).path.read_text())
    write_json(tmp_path / "blind.tflite.json", {**sidecar, "thresholds": {}})
    bgr = shutil.copy(models["float"], tmp_path / "bgr.tflite")
    write_json(tmp_path / "bgr.tflite.json", {**sidecar, "io": {**sidecar["io"], "colour": "bgr"}})
    for words, message in (
        ([tmp_path / "none.tflite"], "No model at"),
        ([tmp_path / "model.onnx"], "The page needs a .tflite"),
        ([bare], "needs a sidecar"),
        ([blind], "has no calibrated threshold"),
        ([bgr], "The model must take raw RGB pixels"),
        ([models["float"], "--threshold", "5"], "--threshold must be a squared L2 distance"),
        ([models["float"], "--out", tmp_path], "a new folder or an earlier build"),
    ):
        out = [] if "--out" in words else ["--out", tmp_path / "site"]
        with pytest.raises(FaceError, match=message) as caught:
            build.main([str(word) for word in [*words, *out]])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "site").exists()


def test_an_int8_output_is_refused_by_name(models, tmp_path, monkeypatch):
    int8 = SimpleNamespace(shape=build.SHAPE, dtype=np.dtype("uint8"), takes_pixels=True, output_dtype=np.dtype("int8"))
    monkeypatch.setattr(build, "Lite", lambda *_, **__: int8)

    with pytest.raises(FaceError, match="has uint8 input and int8 output: use a float, fp16 or dynamic model"):
        build.main([str(models["float"]), "--out", str(tmp_path / "site")])


def test_without_npm_it_says_what_to_install(models, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    (tmp_path / "package-lock.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(FaceError, match=r"'npm', which installs LiteRT.js, is not on PATH"):
        build.main([str(models["float"]), "--out", str(tmp_path / "site")])

    assert not (tmp_path / "site").exists()


def test_a_second_build_replaces_the_first(models, packages, tmp_path):
    out = tmp_path / "site"
    for mode in ("float", "dynamic"):
        assert build.main([str(models[mode]), "--out", str(out)]) == 0

    served = [path.name for path in out.glob("model-*.tflite")]
    assert served == [f"model-{read_sidecar(models['dynamic']).sha256[:12]}.tflite"]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_lock_file_names_no_registry():
    lock = (DEMO / "package-lock.json").read_text()

    assert "http" not in lock and "resolved" not in lock and '"integrity"' in lock


def write_png(path, image):
    """`image`: uint8 [H, W, 3] RGB."""
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path
