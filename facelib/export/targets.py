"""Every artefact of a run, in one list: how it is made, tested and judged, and what runs it.

export_all.py makes and tests them in this order, conversions take their lowest cosines from here, reports sort by it,
and docs/targets.md has the table. A new target is a folder and an entry; CONTRIBUTING.md shows it on a small one.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.arm import CPUS, EXECUTORS

REFERENCE = "embedder.h5"
_SOME = 600  # pairs: 10 folds of 30 genuine and 30 impostor pairs
_RAW = Io()  # raw RGB pixels, NHWC, float32
LOW_COSINE = 0.95  # a mean below it is worth a look at the picture of the layers
READY = "ready"  # the file that `make` leaves in a finished environment


@dataclass(frozen=True)
class Target:
    """One artefact.

    In command lines {x} is the artefact, {parent} its parent, {calibration} --calibration with its value, {test} the
    flags of a test script, {far} --far with its values, and {bin} the first .bin of --valid.

    Attributes:
        name: path of the artefact in the run directory. If nothing makes it, its parent is tested once more, by another
            executor, and this is the name of the report.
        parent: name of the target that it is made from; None for the trained embedder.
        make: command lines that make it; none if its parent is tested by another executor.
        test: command lines that test it and write its report.
        kind: of artefact, as its sidecar says.
        executor: the runtime and its kernels that the test runs.
        ran_on: what the project ran it on: 'CPU', 'simulator', 'own kernels' (the chip's, on a CPU), 'emulated CPU',
            'structure only' (read, not run), 'not run'.
        eats: layout, scaling and type of the input.
        min_cosine: lowest cosine to the parent that is allowed: of any face in a conversion on the CPU, of the mean of
            all faces in a simulator. None where ACC and VR alone decide.
        min_mean_cosine: lowest mean cosine to the parent, of the faces of the conversion or the test; export_all.py
            fails the artefact below it. None where `min_cosine` says it.
        environment: what `make` installs for it; '' for the environment of the project.
        needs: programs on PATH, '--calibration' or 'a .bin'. If one is missing, or the environment, the target is left
            out and the table says why.
        fits: command lines that fail if the parent does not suit this target. It is then left out.
        pairs: how many pairs of the .bin its test draws, {pairs} in command lines; None for all. Where a face is slow.
        against: path of the report that the gate compares with; '' for the reports of the parent and of embedder.h5;
            None where the test itself compares all embeddings, and fails.
    """

    name: str
    parent: str | None
    make: tuple[str, ...]
    test: tuple[str, ...]
    kind: str
    executor: str
    ran_on: str = "CPU"
    eats: Io = _RAW
    min_cosine: float | None = None
    min_mean_cosine: float | None = None
    environment: str = ""
    needs: tuple[str, ...] = ()
    fits: tuple[str, ...] = ()
    pairs: int | None = None
    against: str | None = ""

    @property
    def scripts(self) -> list[str]:
        """The scripts that make and test it, as paths in the project."""
        return list(dict.fromkeys(line.split()[0] for line in (*self.make, *self.test)))


def environment_folder(environment: str) -> str:
    """Where `make ENVIRONMENT` installs, a path in the project; the folder holds a file `READY` once that is done."""
    return "k210/.venv" if environment == "k210" else f".venv-{environment}"


def _test_on_some(test_of_parent: str, test: str, report: str = "") -> tuple[str, ...]:
    """Test lines where a face is slow: the parent on `Target.pairs` of the pairs, and the artefact on the same."""
    drawn = "--valid {bin} --pairs {pairs} {far}"
    return (f"{test_of_parent} {{parent}} {drawn} --report {{x}}.parent.json", f"{test} {drawn}{report}")


_FROZEN, _OPTIMIZED, _FLOAT = "export/frozen.pb", "export/optimized.pb", "export/model_float.tflite"
_INT8 = "export/model_int8.tflite"
_TEST_PB, _TEST_TFLITE = ("pb_test.py {x} {test}",), ("tflite_test.py {x} {test}",)
_TEST_ONNX = ("onnx_test.py {x} {test}",)
_TFLITE = "pb_2_tflite.py {parent} --out {x} --mode"
_RAW_PLANES, _PLANES = Io(layout="nchw"), "export/model_nchw.onnx"
_NCNN, _TEST_NCNN = "ncnn/onnx_2_ncnn.py {parent} --out {x} --mode", ("ncnn/ncnn_test.py {x} {test}",)
_SCALED, _RKNN = "export/model_scaled.onnx", "rknn/onnx_2_rknn.py {parent} --out {x} --mode"
_PLANES_OF_ESP = "export/model_esp.onnx"  # as _SCALED, where the environment of rknn/ is missing
_IMAGE, _COREML = "export/model_coreml.onnx", "coreml/onnx_2_coreml.py {parent} --out {x} --mode"
_TEST_RKNN = _test_on_some("onnx_test.py", "rknn/rknn_test.py {x}")
_TEST_ESPDL = _test_on_some("onnx_test.py", "esp/espdl_test.py {x}")
_TEST_COREML = _test_on_some("onnx_test.py", "coreml/coreml_test.py {x}")
_GRAPH, _LITE, _ORT = executors.TENSORFLOW, executors.XNNPACK, executors.ONNX_RUNTIME
# Parents first.
TARGETS = (
    Target(REFERENCE, None, (), ("evaluate_data.py {x} {test}",), "h5", executors.KERAS),
    Target(_FROZEN, REFERENCE, ("h5_2_pb.py {parent} --out {x}",), _TEST_PB, "frozen_pb", _GRAPH, min_cosine=0.99999),
    Target(_OPTIMIZED, _FROZEN, ("optimize_pb.sh {parent} {x}",), _TEST_PB, "optimized_pb", _GRAPH,
           min_cosine=0.99999),
    Target(_FLOAT, _OPTIMIZED, (f"{_TFLITE} float",), _TEST_TFLITE, "tflite_float", _LITE, min_cosine=0.9999),
    Target("export/model_fp16.tflite", _OPTIMIZED, (f"{_TFLITE} fp16",), _TEST_TFLITE, "tflite_fp16", _LITE,
           min_cosine=0.9995),
    Target("export/model_dynamic.tflite", _OPTIMIZED, (f"{_TFLITE} dynamic",), _TEST_TFLITE, "tflite_dynamic", _LITE,
           min_mean_cosine=0.95),
    Target(_INT8, _OPTIMIZED, (f"{_TFLITE} int8 {{calibration}}",), _TEST_TFLITE, "tflite_int8",
           _LITE, eats=Io(dtype="uint8"), min_mean_cosine=0.85, needs=("--calibration",)),
    Target("export/model_int8.tflite.tflm", _INT8, (),
           _test_on_some("tflite_test.py", "mcu/tflm_test.py {parent}", " --report {x}.report.json"),
           "tflm", executors.TFLITE_MICRO, ran_on="own kernels", eats=Io(dtype="uint8"), min_cosine=0.97,
           environment="mcu", needs=("a .bin",), pairs=_SOME, against="{x}.parent.json"),
    Target("export/model.onnx", _OPTIMIZED, ("pb_2_onnx.py {parent} --out {x}",), _TEST_ONNX, "onnx", _ORT,
           min_cosine=0.99999),
    Target("export/model_int8.onnx", _OPTIMIZED, ("pb_2_onnx.py {parent} --out {x} --mode int8 {calibration}",),
           _TEST_ONNX, "onnx_int8", _ORT, min_mean_cosine=0.85, needs=("--calibration",)),
    Target("export/model.om", _OPTIMIZED, ("om/pb_2_om.sh {parent} {x}",),
           ("om/image2bin.py {bin} {x}.inputs --model {x}", "om/om_eval.sh {x} {x}.inputs {x}.outputs",
            "om/calculate_om_acc.py {x}.outputs {bin} --model {x} {far}"), "om", executors.MSAME,
           ran_on="not run", needs=("atc", "msame", "a .bin")),
    Target("export/model.kmodel", _FLOAT, ("k210/tflite_2_kmodel.py {parent} {calibration} --out {x}",),
           _test_on_some("tflite_test.py", "k210/kmodel_test.py {x}"),
           "kmodel", executors.NNCASE, ran_on="simulator", eats=Io(dtype="uint8", layout="nchw"),
           min_cosine=0.985, environment="k210", needs=("--calibration", "a .bin"),
           fits=("k210/check_k210.py {parent}",), pairs=_SOME, against="{x}.parent.json"),
    Target(_PLANES, _OPTIMIZED, ("pb_2_onnx.py {parent} --layout nchw --batch 1 --out {x}",), _TEST_ONNX, "onnx", _ORT,
           eats=_RAW_PLANES, min_cosine=0.99999, environment="ncnn"),
    Target("export/model_float.param", _PLANES, (f"{_NCNN} float",), _TEST_NCNN, "ncnn_float", executors.NCNN,
           eats=_RAW_PLANES, min_cosine=0.9999, environment="ncnn"),
    Target("export/model_fp16.param", _PLANES, (f"{_NCNN} fp16",), _TEST_NCNN, "ncnn_fp16", executors.NCNN,
           eats=_RAW_PLANES, min_cosine=0.9995, environment="ncnn"),
    Target(_SCALED, _OPTIMIZED,
           ("pb_2_onnx.py {parent} --layout nchw --pixels outside --batch 1 --prelu-nodes --out {x}",), _TEST_ONNX,
           "onnx", _ORT, eats=Io(layout="nchw", pixels="pm1"), min_cosine=0.99999, environment="rknn"),
    Target("export/model_int8.rknn", _SCALED, (f"{_RKNN} int8 {{calibration}}",), _TEST_RKNN, "rknn_int8",
           executors.RKNN, ran_on="simulator", eats=Io(dtype="uint8"), min_cosine=0.98,
           environment="rknn", needs=("--calibration", "a .bin"), pairs=_SOME, against="{x}.parent.json"),
    Target("export/model_fp16.rknn", _SCALED, (f"{_RKNN} fp16",), _TEST_RKNN, "rknn_fp16",
           executors.RKNN, ran_on="simulator", eats=Io(dtype="uint8"), min_cosine=0.9995,
           environment="rknn", needs=("a .bin",), pairs=_SOME, against="{x}.parent.json"),
    Target(_IMAGE, _OPTIMIZED,
           ("pb_2_onnx.py {parent} --layout nchw --pixels inside --batch 1 --prelu-nodes --out {x}",), _TEST_ONNX,
           "onnx", _ORT, eats=_RAW_PLANES, min_cosine=0.99999, environment="coreml"),
    Target("export/model_fp16.mlpackage.zip", _IMAGE, (f"{_COREML} fp16",), _TEST_COREML, "coreml_fp16",
           executors.MIL_IN_NUMPY, ran_on="structure only", eats=Io(dtype="uint8"), min_cosine=0.9995,
           environment="coreml", needs=("a .bin",), pairs=_SOME, against="{x}.parent.json"),
    Target("export/model_int8.mlpackage.zip", _IMAGE, (f"{_COREML} int8",), _TEST_COREML, "coreml_int8",
           executors.MIL_IN_NUMPY, ran_on="structure only", eats=Io(dtype="uint8"), min_cosine=0.98,
           environment="coreml", needs=("a .bin",), pairs=_SOME, against="{x}.parent.json"),
    Target(_PLANES_OF_ESP, _OPTIMIZED, ("pb_2_onnx.py {parent} --layout nchw --pixels outside --batch 1 --out {x}",),
           _TEST_ONNX, "onnx", _ORT, eats=Io(layout="nchw", pixels="pm1"), min_cosine=0.99999, environment="esp"),
    *(Target(f"export/model_{chip}.espdl", _PLANES_OF_ESP,
             (f"esp/onnx_2_espdl.py {{parent}} --chip {chip} {{calibration}} --out {{x}}",), _TEST_ESPDL, "espdl",
             executors.ESP_PPQ, ran_on="simulator", eats=Io(layout="nchw", pixels="pm1"), min_cosine=0.97,
             environment="esp", needs=("--calibration", "a .bin"), pairs=_SOME, against="{x}.parent.json")
      for chip in ("esp32s3", "esp32p4")),
)  # fmt: skip


def arm_targets() -> tuple[Target, ...]:
    """Every .tflite and .onnx of this computer once more, on each emulated ARM CPU.

    The test compares the embeddings with those on this computer. Only the int8 .tflite is fast enough for 600 pairs.
    """
    return tuple(_on_arm(target, cpu) for target in TARGETS if _runs_on_arm(target) for cpu in CPUS)


def _runs_on_arm(target: Target) -> bool:
    return target.executor in EXECUTORS.values() and not target.environment


def _on_arm(target: Target, cpu: str) -> Target:
    # Dynamic models round differently, and a PReLU net whose slopes are all equal (docs/arm.md).
    floor = 0.9998 if target.min_mean_cosine is None else 0.98
    flags = f"--cpu {cpu} --valid {{bin}} --pairs {{pairs}} {{far}} --min-cosine {floor}"
    return replace(
        target, name=f"{target.name}.{cpu}", parent=target.name, make=(),
        test=(f"arm/arm_test.py {{parent}} {flags} --report {{x}}.report.json",),
        executor=executors.on_emulated(target.executor, cpu), ran_on="emulated CPU", min_cosine=floor,
        min_mean_cosine=None, environment="arm", needs=("a .bin",), pairs=_SOME if target.name == _INT8 else 20,
        against=None,
    )  # fmt: skip


def min_cosine_of(kind: str) -> float | None:
    """The lowest cosine to the parent that is allowed for a kind of artefact; None where ACC and VR alone decide."""
    return next((target.min_cosine for target in TARGETS if target.kind == kind), None)


def file_order() -> list[str]:
    """Endings of file names in the order of `TARGETS`: 'float.tflite', ..., then '.tflite' for all others."""
    names = [Path(target.name).name for target in TARGETS]
    endings = []
    for i, name in enumerate(names):
        endings.append(name.rpartition("_")[2])
        suffix = Path(name).suffix
        if not any(later.endswith(suffix) for later in names[i + 1 :]):
            endings.append(suffix)
    return endings
