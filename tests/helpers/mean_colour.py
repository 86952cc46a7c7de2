"""A runtime without weights behind the main of every test script, for tests of the mains themselves."""

import json

import cv2
import numpy as np

import evaluate_data
from facelib.embedder import RuntimeEmbedder


class MeanColour(RuntimeEmbedder):
    """Embeds a face as its mean colour and the difference of its halves: a runtime without weights."""

    def __init__(self, path, io, threads):
        super().__init__("mean colour", io, batch_size=16)
        self.shapes = []

    def run(self, pixels):
        self.shapes.append(pixels.shape)
        pixels = pixels.astype(np.float32)
        left, right = pixels[:, :, :56].mean((1, 2)), pixels[:, :, 56:].mean((1, 2))
        return np.concatenate([left + right, left - right], axis=1)


def draw_face(random, colour) -> bytes:
    noise = random.integers(-20, 21, (112, 112, 3)) + random.integers(-9, 10, 3)
    noise[:, :56] += random.integers(-9, 10)
    return cv2.imencode(".png", np.clip(colour + noise, 0, 255).astype(np.uint8)[:, :, ::-1])[1].tobytes()


def run_main(*argv, open_embedder=MeanColour):
    return evaluate_data.test_main([str(word) for word in argv], open_embedder, "A test.", "fake")


def read(folder, name="model.fake.report.json"):
    return json.loads((folder / name).read_text())
