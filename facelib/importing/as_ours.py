"""A Keras model of another system as an import: fed as the user or a sidecar says, rebuilt, its end cut off."""

from facelib.errors import FaceError
from facelib.importing.job import Imported, Job
from facelib.model_input import IO_CHOICES, Io
from facelib.sidecar import check_sidecar


def as_ours(model, heads: dict[str, str], job: Job, pixels: str = "") -> Imported:
    """A Keras model of another system as an import.

    Args:
        model: Keras model with its weights.
        heads: {name of a `CutHead` in it: class of the margin head that it was}.
        job: what the user says.
        pixels: scaling that nets of this origin take; the user may say another one.
    """
    import keras

    from facelib.importing.ending import find_ending
    from facelib.importing.front import end_with, find_image, put_in_front
    from facelib.importing.stored_weights import read_head
    from facelib.runtimes.keras_h5 import KerasEmbedder, in_float32

    model = in_float32(model)
    io = _choose_io(model, job, pixels)
    whole = put_in_front(model, io.pixels, io.colour, io.size, job.path.name)
    ending = find_ending(whole, heads, job.path.name)
    net = end_with(whole, ending.embedding)
    first = find_ending(model, heads, job.path.name)  # nets within the net keep their own end
    original = keras.Model(find_image(model, job.path.name), first.embedding)
    io = Io(pixels=io.pixels, colour=io.colour, size=tuple(net.input_shape[1:3]))
    return Imported(
        net,
        io.pixels,
        what=f"{model.name}: {len(net.layers)} layers",
        original=KerasEmbedder(original, io).raw,
        is_normalised=ending.is_normalised and not first.is_normalised,
        lines=ending.lines,
        record={"colour": io.colour, "layers": len(net.layers), "left_out": ending.lines},
        centres=ending.centres if ending.centres is not None else read_head(job.path, heads, net.output_shape[-1]),
    )


def _choose_io(model, job: Job, usual: str) -> Io:
    """What the net takes: from the flags, or from a sidecar.

    Raises:
        FaceError: nobody says it, and no layer of the net scales pixels.
    """
    sidecar = check_sidecar(job.path) if job.path.is_file() else None
    known = sidecar.io if sidecar is not None else Io(pixels="raw" if _scales_itself(model) else usual)
    if job.layout == "nchw":
        raise FaceError(
            f"A Keras net must have its channels last to be imported. '{job.path}' is described as nchw: export the "
            "net to ONNX where it was trained (tf2onnx), and import the ONNX file."
        )
    pixels = job.pixels or known.pixels
    if not pixels:
        raise FaceError(
            f"'{job.path}' does not say which pixels it was trained with. Use --pixels "
            f"{'|'.join(IO_CHOICES['pixels'])} (pm1_exact is x/127.5 - 1), and --color bgr if the net was trained on "
            "BGR."
        )
    return Io(pixels=pixels, colour=job.colour or known.colour, size=job.size or known.size)


def _scales_itself(model) -> bool:
    """Whether the net has a layer of its own that scales pixels."""
    return any(type(layer).__name__ in ("PixelScale", "Rescaling", "Normalization") for layer in model.layers)
