"""Draws synthetic faces: `synthetic_face(seed, identity_idx, image_idx)`, a pure function of its numbers.

Two pictures of one identity share geometry, colours and marks. Pose, light, expression, glasses, occlusion, background,
blur and noise differ. The colour of the light varies more than the skin does, so a model must learn the shapes.
"""

from functools import lru_cache
from statistics import NormalDist

import cv2
import numpy as np

from facelib.data.synthetic.drawing import SIZE, SUPERSAMPLING, mix, paint
from facelib.data.synthetic.traits import Identity, Shot

SKIN_TONES = ((248, 220, 198), (236, 194, 162), (222, 172, 136), (196, 144, 106), (160, 110, 78), (118, 78, 56))
HAIR_COLOURS = ((28, 22, 22), (52, 36, 28), (84, 56, 38), (124, 84, 52), (176, 132, 78), (150, 70, 40), (142, 138, 134))
IRIS_COLOURS = ((74, 46, 26), (104, 68, 34), (112, 104, 52), (84, 124, 84), (80, 118, 158), (108, 124, 138))

EDGE_TO_EDGE = np.linspace(-1, 1, SIZE, dtype=np.float32)
GREY = np.linspace(0, 1, 256)
# 256 equally likely values of a standard normal variable: a random byte looks its noise up here.
BELL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)


def draw_identity(seed: int, identity_idx: int = 0) -> Identity:
    """The person with number `identity_idx`; another seed gives other people."""
    rng = np.random.default_rng([seed, identity_idx])
    between, chance = rng.uniform, lambda share: bool(rng.random() < share)
    skin = _between_neighbours(SKIN_TONES, rng)
    hair = _between_neighbours(HAIR_COLOURS, rng)
    cheek, eye = between(30, 41), between(15.2, 20.4)
    num_freckles = int(rng.integers(8, 18)) if chance(0.18) else 0
    num_moles = int(rng.choice(3, p=(0.6, 0.28, 0.12)))
    return Identity(
        cheek_width=cheek, jaw_width=between(0.66, 0.95), chin_width=between(0.2, 0.52), chin_y=between(54, 67),
        chin_cleft=chance(0.2), forehead_y=between(-46, -34), ear_size=between(0.6, 1.3), skin_colour=skin,
        blush=between(0, 0.22), eye_distance=eye, eye_width=between(5.4, 9.2), eye_height=between(2.3, 5.0),
        eye_tilt=between(-0.22, 0.26), eye_shadow=between(0.8, 1.0), eye_bags=chance(0.25),
        lid_fold=between(1.2, 3.0) * chance(0.5), lash_width=between(0.5, 1.9), iris_size=between(0.75, 1.05),
        iris_colour=_between_neighbours(IRIS_COLOURS, rng), brow_inner=between(4.5, 9.5), brow_length=between(13, 22),
        brow_height=between(7, 13.5), brow_thickness=between(1.0, 4.6), brow_slope=between(-2.6, 2.6),
        brow_arch=between(-0.5, 3.5), brow_colour=mix(hair, (40, 28, 24), between(0.2, 0.9)),
        nose_length=between(15.5, 25), nose_width=between(5, 10.5), bridge_width=between(1.6, 4.4),
        nose_tip=between(0.3, 0.6), mouth_y=between(36.5, 45), mouth_width=between(9.5, 18.5),
        mouth_curve=between(-1.8, 1.8), upper_lip=between(1.2, 4.2), lower_lip=between(1.6, 5.6),
        lip_colour=mix(skin, (168, 40, 56), between(0.25, 0.75)), is_bald=chance(0.08), hair_colour=hair,
        hair_volume=between(1, 13), hair_length=70.0 if chance(0.4) else between(-10, 20),
        hairline_y=between(-31, -17), hairline_peak=between(-6, 8), hair_parting=between(-7, 7),
        sideburn_y=between(-14, 14), fringe=between(2, 5) * chance(0.3),
        beard=str(rng.choice(("none", "moustache", "goatee", "full"), p=(0.68, 0.1, 0.1, 0.12))),
        glasses_habit=0.75 * chance(0.22), glasses_size=min(between(10, 14), eye - 2),
        glasses_aspect=between(0.62, 1.0), glasses_squareness=between(2, 6), glasses_width=between(0.8, 2.2),
        glasses_colour=_between_neighbours(((24, 22, 24), (120, 60, 40), (150, 140, 120), (40, 50, 110)), rng),
        freckles=tuple((between(-24, 24), between(10, 27)) for _ in range(num_freckles)),
        moles=tuple((between(-27, 27), between(-16, 50), between(0.9, 1.9)) for _ in range(num_moles)),
        scars=((between(-26, 26), between(-20, 46), between(0, np.pi), between(6, 14)),) * chance(0.12),
    )  # fmt: skip


def draw_shot(identity: Identity, rng: np.random.Generator) -> Shot:
    """How the next picture of `identity` is taken, at random."""
    between, bell, chance = rng.uniform, rng.normal, lambda share: bool(rng.random() < share)
    wears_glasses = chance(identity.glasses_habit)
    glasses = "sun" if chance(0.05) else "usual" if wears_glasses else "none"
    brightness = between(0.6, 1.3)
    redness = bell(0, 0.13)
    return Shot(
        yaw=float(np.clip(bell(0, 0.2), -0.5, 0.5)), pitch=float(np.clip(bell(0, 0.11), -0.3, 0.3)),
        roll=bell(0, 0.035), zoom=between(0.95, 1.05), shift=(bell(0, 1.0), bell(0, 1.0)),
        smile=max(0.0, bell(0.2, 0.5)), mouth_opening=max(0.0, bell(-1.0, 3.2)),
        eye_opening=0.15 if chance(0.07) else between(0.7, 1.1), gaze=(bell(0, 0.6), bell(0, 0.5)),
        brow_raise=bell(0, 1.0), frown=bell(0, 0.6), glasses=glasses, is_shaved=chance(0.15),
        occluder=str(rng.choice(("none", "bar", "hand"), p=(0.9, 0.05, 0.05))),
        occluder_place=(between(-30, 30), between(-24, 52), between(0, np.pi)),
        clothes_colour=tuple(between(20, 235, 3).tolist()),
        gain=tuple((brightness * (1 + np.array([redness, bell(0, 0.05), -redness]))).tolist()),
        light_slope=(bell(0, 0.22), bell(0, 0.15)), gamma=between(0.7, 1.4),
        blur=abs(bell(0, 0.6)), noise=between(1, 7),
    )  # fmt: skip


def draw_face(identity: Identity, rng: np.random.Generator) -> np.ndarray:
    """One picture of `identity`: uint8 [112, 112, 3], RGB. `rng` decides everything but the identity."""
    shot = draw_shot(identity, rng)
    large = paint(identity, shot, _draw_background(rng))
    face = cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    if shot.blur > 0.3:
        face = cv2.GaussianBlur(face, (0, 0), shot.blur)
    return _photograph(face, shot, rng)


def synthetic_face(seed: int, identity_idx: int, image_idx: int) -> np.ndarray:
    """One picture of one person: uint8 [112, 112, 3], RGB. A pure function.

    Args:
        seed: another seed gives other people.
        identity_idx: the person, from 0.
        image_idx: the picture of that person, from 0.
    """
    rng = np.random.default_rng([seed, identity_idx, image_idx, 1])
    return draw_face(_known_identity(seed, identity_idx), rng)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of an image.

    Args:
        image: uint8 [H, W, 3], RGB.
        quality: 1 to 100.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


_known_identity = lru_cache(maxsize=4096)(draw_identity)


def _between_neighbours(palette: tuple, rng: np.random.Generator) -> tuple[float, ...]:
    """A random mixture of two neighbouring colours of `palette`."""
    place = rng.uniform(0, len(palette) - 1)
    first = min(int(place), len(palette) - 2)
    return mix(palette[first], palette[first + 1], place - first)


def _draw_background(rng: np.random.Generator) -> np.ndarray:
    """Soft blotches of two colours, uint8 [224, 224, 3]."""
    hue = rng.normal(0, 34, 3)
    blotches = rng.uniform(50, 205) + hue + rng.normal(0, 26, (5, 5, 1)) + rng.normal(0, 12, (5, 5, 3))
    blotches = np.clip(blotches, 0, 255).astype(np.uint8)
    return cv2.resize(blotches, (SIZE * SUPERSAMPLING,) * 2, interpolation=cv2.INTER_LINEAR)


def _photograph(face: np.ndarray, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """Adds the camera's gamma, the direction and colour of the light, and noise. uint8 [112, 112, 3] in and out."""
    # A round head turns away from the light at its sides: brightness falls off with the distance from the middle.
    across = 1.04 + shot.light_slope[0] * EDGE_TO_EDGE - 0.16 * EDGE_TO_EDGE**2
    light = across[None] + shot.light_slope[1] * EDGE_TO_EDGE[:, None]
    exposure = 255 * GREY[:, None] ** shot.gamma * np.array(shot.gain, np.float32)  # [256, 3]
    seen = cv2.LUT(face, np.minimum(exposure, 255).astype(np.float32)[:, None])
    seen = cv2.multiply(seen, cv2.merge([light, light, light]))
    grain = np.frombuffer(rng.bytes(face.size), np.uint8).reshape(face.shape)
    seen = cv2.add(seen, cv2.LUT(grain, BELL * np.float32(shot.noise)))
    return cv2.convertScaleAbs(np.maximum(seen, 0))
