"""Paints a synthetic face: its features are polygons on a curved head that is seen at an angle.

Face space: pixels of the 112 x 112 crop, x to the right and y down from the midpoint between the eyes. A head is a
paraboloid in that space, so when it turns the nose moves against the cheeks as a camera would see it.
"""

from functools import lru_cache

import cv2
import numpy as np

from facelib.data.synthetic.traits import Identity, Shot
from facelib.model_input import TEMPLATE_112

SIZE = 112
TEMPLATE = np.array(TEMPLATE_112)  # where aligned crops have eyes, nose and mouth corners
SUPERSAMPLING = 2  # painted at 224 x 224 with anti-aliased edges, then averaged down
SHIFT = 4  # fractional bits of polygon corners
TURNS = np.linspace(0, 2 * np.pi, 16, endpoint=False)
UNIT_CIRCLE = np.stack([np.cos(TURNS), np.sin(TURNS)], axis=1)
BEND, TILT = np.array([-1 / 50, -1 / 150]), np.array([0.0, 36 / 150])  # depth of the head: see project
MIRROR = np.array([-1.0, 1.0])


@lru_cache
def _smoothing(num_points: int, is_closed: bool) -> np.ndarray:
    """Matrix [4n, n] that runs a Catmull-Rom curve through n points."""
    t = np.arange(4)[:, None] / 4
    weights = (
        np.concatenate([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1) / 2
    )
    matrix = np.zeros((4 * num_points, num_points))
    for i in range(num_points):
        for k in range(4):
            j = (i + k - 1) % num_points if is_closed else min(max(i + k - 1, 0), num_points - 1)
            matrix[4 * i : 4 * i + 4, j] += weights[:, k]
    return matrix if is_closed else matrix[: 4 * num_points - 3]


def smooth(points, is_closed: bool = True) -> np.ndarray:
    """A smooth curve through `points` [N, 2], four samples a span."""
    points = np.asarray(points, float)
    return _smoothing(len(points), is_closed) @ points


def symmetric(right_half) -> np.ndarray:
    """A closed outline from its right half, listed top to bottom; both ends lie on the midline."""
    right = np.asarray(right_half, float)
    return np.concatenate([right, right[-2:0:-1] * MIRROR])


class Canvas:
    """A picture and the projection from face space onto it."""

    def __init__(self, picture: np.ndarray, identity: Identity, shot: Shot):
        self.picture = picture  # uint8 [224, 224, 3], RGB
        yaw, pitch = np.array([np.cos(shot.yaw), np.sin(shot.yaw)]), np.array([np.cos(shot.pitch), np.sin(shot.pitch)])
        self.turn, self.depth = np.array([[yaw[0], 0.0], [0.0, pitch[0]]]), np.array([yaw[1], pitch[1]])
        self.offset = np.zeros(2)
        # Aligned like real crops: the similarity that brings the five landmarks nearest to the template.
        eye, mouth = identity.eye_distance, identity.mouth_width
        marks = np.array([[-eye, 0], [eye, 0], [0, identity.nose_length], [-mouth, 0], [mouth, 0]])
        marks[3:, 1] = identity.mouth_y
        seen = self.project(marks, np.array([0, 0, 12.0, 0, 0])) @ [1, 1j]
        wanted = (TEMPLATE * SUPERSAMPLING + 0.5) @ [1, 1j]
        centred = seen - seen.mean()
        similarity = np.vdot(centred, wanted - wanted.mean()) / np.vdot(centred, centred).real
        similarity *= shot.zoom * np.exp(1j * shot.roll)
        shift = wanted.mean() - similarity * seen.mean() + SUPERSAMPLING * (np.array(shot.shift) @ [1, 1j])
        rotate = np.array([[similarity.real, similarity.imag], [-similarity.imag, similarity.real]])
        self.turn, self.depth = self.turn @ rotate, self.depth @ rotate
        self.offset = np.array([shift.real, shift.imag])
        self.scale = abs(similarity)

    def project(self, points: np.ndarray, lift=0.0) -> np.ndarray:
        """Face space [N, 2] -> canvas [N, 2]. `lift`: height above the head's surface, pixels, one or [N]."""
        # Depth z = lift - x^2 / 50 - (y - 18)^2 / 150, the square written out: this runs fifty times a face.
        bend = points * points @ BEND + points @ TILT - 2.16 + lift
        return points @ self.turn + bend[:, None] * self.depth + self.offset

    def _corners(self, points, lift) -> list[np.ndarray]:
        return [np.rint(self.project(np.asarray(points, float), lift) * (1 << SHIFT)).astype(np.int32)]

    def fill(self, points, colour, lift=0.0) -> None:
        """A filled polygon, points [N, 2] in face space."""
        cv2.fillPoly(self.picture, self._corners(points, lift), colour, cv2.LINE_AA, SHIFT)

    def stroke(self, points, colour, width: float, lift=0.0, is_closed: bool = False) -> None:
        """A line through points [N, 2] in face space; `width` in pixels of the crop."""
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.picture, self._corners(points, lift), is_closed, colour, thickness, cv2.LINE_AA, SHIFT)

    def disc(self, x: float, y: float, rx: float, ry: float, colour, lift=0.0) -> None:
        """A filled ellipse of half axes `rx`, `ry`."""
        self.fill(UNIT_CIRCLE * (rx, ry) + (x, y), colour, lift)


def shade(colour, factor: float) -> tuple[float, ...]:
    """`colour` times `factor`; OpenCV holds it to 0..255."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def mix(first, second, share: float) -> tuple[float, ...]:
    """`first` with `share` of `second` in it."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def paint(identity: Identity, shot: Shot, background: np.ndarray) -> np.ndarray:
    """Paints the head over `background` uint8 [224, 224, 3]; returns the same array. RGB."""
    canvas = Canvas(background, identity, shot)
    _paint_behind(canvas, identity, shot)
    _paint_head(canvas, identity)
    _paint_marks(canvas, identity)
    _paint_mouth(canvas, identity, shot)
    _paint_beard(canvas, identity, shot)
    _paint_nose(canvas, identity)
    for side in (-1, 1):
        _paint_eye(canvas, identity, shot, side)
    _paint_hair(canvas, identity)
    for side in (-1, 1):
        _paint_brow(canvas, identity, shot, side)
    _paint_glasses(canvas, identity, shot)
    _paint_occluder(canvas, identity, shot)
    return canvas.picture


def _paint_behind(canvas: Canvas, who: Identity, shot: Shot) -> None:
    """Hair behind the head, neck, clothes, ears."""
    w, top, volume = who.cheek_width, who.forehead_y, who.hair_volume
    if not who.is_bald:
        reach = who.hair_length
        half = [(0, top - 6 - volume), (w * 0.7, top - volume), (w + volume, -8), (w + volume, reach), (w * 0.5, reach)]
        canvas.fill(smooth(symmetric([*half, (0, reach)])), shade(who.hair_colour, 0.78), -18)
    neck = who.jaw_width * w * 0.8
    canvas.fill([(-neck, 30), (neck, 30), (neck + 2, 90), (-neck - 2, 90)], shade(who.skin_colour, 0.74), -14)
    canvas.fill([(-neck - 30, 90), (-neck, 74), (0, 84), (neck, 74), (neck + 30, 90)], shot.clothes_colour, -12)
    for side in (-1, 1):
        ear = UNIT_CIRCLE * (4.5, 9.5) * who.ear_size + (side * (w + 1.5), 8)
        canvas.fill(ear, shade(who.skin_colour, 0.88), -4)


def head_outline(who: Identity) -> np.ndarray:
    """The outline of face and forehead, closed, face space."""
    w = who.cheek_width
    jaw, chin = w * who.jaw_width, w * who.chin_width
    half = [(0, who.forehead_y), (w * 0.72, who.forehead_y + 7), (w, -10), (w * 0.99, 14), (jaw, 38)]
    return smooth(symmetric([*half, (chin, who.chin_y - 5), (0, who.chin_y)]))


def _paint_head(canvas: Canvas, who: Identity) -> None:
    skin = who.skin_colour
    outline = head_outline(who)
    canvas.fill(outline, shade(skin, 0.86))
    canvas.fill(outline * (0.94, 0.97) + (0, -0.5), skin)
    blush = mix(skin, (225, 90, 90), who.blush)
    for side in (-1, 1):
        canvas.disc(side * who.cheek_width * 0.58, 23, 8.5, 6.5, blush)
    if who.chin_cleft:
        canvas.stroke([(0, who.chin_y - 9), (0.3, who.chin_y - 5)], shade(skin, 0.8), 1.0)


def _paint_marks(canvas: Canvas, who: Identity) -> None:
    dark = shade(who.skin_colour, 0.74)
    for x, y in who.freckles:
        canvas.disc(x, y, 0.7, 0.7, dark)
    for x, y, radius in who.moles:
        canvas.disc(x, y, radius, radius, shade(who.skin_colour, 0.38))
    for x, y, angle, length in who.scars:
        place, reach = np.array([x, y]), np.array([np.cos(angle), np.sin(angle)]) * length / 2
        canvas.stroke([place - reach, place + reach], mix(who.skin_colour, (240, 190, 190), 0.6), 1.3)


def _paint_eye(canvas: Canvas, who: Identity, shot: Shot, side: int) -> None:
    skin, width = who.skin_colour, who.eye_width
    height = who.eye_height * shot.eye_opening
    turn = np.array([[np.cos(who.eye_tilt), -np.sin(who.eye_tilt)], [np.sin(who.eye_tilt), np.cos(who.eye_tilt)]])
    centre = np.array([side * who.eye_distance, 0.0])

    def place(points):  # x grows outwards; the tilt lifts the outer corner
        return (np.asarray(points, float) @ turn) * (side, 1) + centre

    canvas.fill(place(UNIT_CIRCLE * (width * 1.25, who.eye_height * 1.5)), shade(skin, who.eye_shadow))
    upper = [(-width, 0.6), (-width * 0.5, -height * 0.8), (width * 0.15, -height), (width * 0.7, -height * 0.6)]
    lower = [(width, -0.3), (width * 0.4, height * 0.72), (-width * 0.45, height * 0.62)]
    almond = smooth(place(upper + lower))
    if shot.eye_opening > 0.3:
        canvas.fill(almond, (238, 236, 232))
        x, y = centre + np.array(shot.gaze) * (width * 0.25, height * 0.2)  # of the iris
        radius = who.iris_size * who.eye_height
        squash = min(radius, height * 1.02)
        canvas.disc(x, y, radius, squash, shade(who.iris_colour, 0.6))
        canvas.disc(x, y, radius * 0.8, squash * 0.8, who.iris_colour)
        canvas.disc(x, y, radius * 0.42, squash * 0.42, (16, 14, 14))
        canvas.disc(x - 0.9, y - 0.9, 0.7, 0.7, (250, 250, 250))
    lid = smooth(place([*upper, lower[0]]), is_closed=False)
    canvas.stroke(lid, shade(mix(who.hair_colour, (40, 25, 20), 0.6), 0.6), who.lash_width)
    if who.lid_fold:
        canvas.stroke(lid - np.array([0, who.lid_fold]), shade(skin, 0.72), 0.6)
    if who.eye_bags:
        canvas.stroke(
            place([(-width * 0.7, height + 2), (0, height + 3.4), (width * 0.7, height + 2)]), shade(skin, 0.8), 0.8
        )


def _paint_brow(canvas: Canvas, who: Identity, shot: Shot, side: int) -> None:
    inner, outer = who.brow_inner, who.brow_inner + who.brow_length
    y = -who.brow_height - shot.brow_raise
    thick, middle = who.brow_thickness / 2, (inner + outer) / 2 + 1.5
    slope = who.brow_slope + shot.frown
    arch = who.brow_arch
    line = [(inner, y + slope), (middle, y - arch), (outer, y - slope + 1.5)]
    upper = [(x, v - t) for (x, v), t in zip(line, (thick, thick, 0.4), strict=True)]
    lower = [(x, v + t) for (x, v), t in zip(line, (thick, thick, 0.4), strict=True)]
    brow = np.concatenate([smooth(upper, is_closed=False), smooth(lower, is_closed=False)[::-1]])
    canvas.fill(brow * (side, 1), shade(who.brow_colour, 0.7), 2)


def _paint_nose(canvas: Canvas, who: Identity) -> None:
    skin, length, width, bridge = who.skin_colour, who.nose_length, who.nose_width, who.bridge_width
    half = [
        (0, 2),
        (bridge, 3),
        (bridge * 1.05, length * 0.55),
        (width * 0.95, length - 1.5),
        (width * 0.7, length + 2.6),
    ]
    outline = symmetric([*half, (0, length + 3.6)])
    lift = np.array([2, 2, 7, 8, 9, 10, 9, 8, 7, 2.0])
    canvas.fill(smooth(outline), shade(skin, 0.89), np.clip(_smoothing(len(outline), True) @ lift, 0, 12))
    ridge = [(-bridge * 0.45, 3), (bridge * 0.45, 3), (bridge * 0.6, length - 3), (-bridge * 0.6, length - 3)]
    canvas.fill(ridge, shade(skin, 1.05), np.array([3, 3, 11, 11.0]))
    canvas.disc(0, length - 0.5, width * who.nose_tip, 3.2, shade(skin, 1.03), 12)
    for side in (-1, 1):
        canvas.disc(side * width * 0.48, length + 1.9, width * 0.22, 1.1, shade(skin, 0.45), 9)


def _paint_mouth(canvas: Canvas, who: Identity, shot: Shot) -> None:
    y, lip = who.mouth_y, who.lip_colour
    width = who.mouth_width * (1 + 0.16 * shot.smile)
    corner_y = y - who.mouth_curve - 3.2 * shot.smile
    opening = shot.mouth_opening
    top = y - opening * 0.3
    up, low = who.upper_lip, who.lower_lip
    seam_up = [(width, corner_y), (width * 0.4, top + 0.2), (0, top + 0.6)]
    seam_low = [(0, y + opening), (width * 0.45, y + opening * 0.85)]
    upper = [(0, top - up * 0.8), (width * 0.22, top - up * 1.15), (width * 0.62, top - up * 0.45)]
    lower = [(width * 0.55, y + opening + low * 0.75), (0, y + opening + low)]
    canvas.fill(smooth(symmetric([*upper, seam_up[0], *lower])), lip, 2)
    canvas.fill(
        symmetric(
            [(0, y + opening + low * 0.35), (width * 0.35, y + opening + low * 0.5), (0, y + opening + low * 0.8)]
        ),
        shade(lip, 1.14),
        2,
    )
    if opening > 1.2:
        canvas.fill(smooth(symmetric([seam_up[2], seam_up[1], seam_up[0], seam_low[1], seam_low[0]])), (58, 22, 24), 2)
        teeth = min(opening * 0.45, 2.6)
        canvas.fill(
            symmetric([(0, top + 0.5), (width * 0.55, top + 0.1), (width * 0.45, top + teeth), (0, top + teeth + 0.5)]),
            (236, 232, 222),
            2,
        )
    else:
        seam = np.concatenate([np.array(seam_up) * MIRROR, np.array(seam_up)[1::-1]])
        canvas.stroke(smooth(seam, is_closed=False), shade(lip, 0.5), 0.8, 2)


def _paint_beard(canvas: Canvas, who: Identity, shot: Shot) -> None:
    if who.beard == "none" or shot.is_shaved:
        return
    hair = mix(shade(who.brow_colour, 0.9), who.skin_colour, 0.12)
    y, w, chin = who.mouth_y, who.mouth_width, who.chin_y
    drop = shot.mouth_opening
    if who.beard in ("moustache", "full"):
        top = who.nose_length + 4.5
        low = y - who.upper_lip - 0.2 - drop * 0.3
        half = [(0, top), (w * 0.6, (top + low) / 2 - 0.5), (w * 1.15, y + 1), (w * 0.6, low)]
        canvas.fill(smooth(symmetric([*half, (0, low + 0.4)])), hair, 3)
    if who.beard in ("goatee", "full"):
        half = [(0, y + who.lower_lip + drop + 1.8), (w * 0.5, y + who.lower_lip + drop + 2.2)]
        if who.beard == "full":
            jaw = who.cheek_width * who.jaw_width
            half += [(w * 1.3, y + 3), (who.cheek_width * 0.86, 26), (who.cheek_width * 0.97, 20), (jaw, 40)]
            half += [(who.cheek_width * who.chin_width, chin - 3)]
        else:
            half += [(w * 0.62, chin - 6)]
        canvas.fill(smooth(symmetric([*half, (0, chin + 1)])), hair, 1)


def _paint_hair(canvas: Canvas, who: Identity) -> None:
    if who.is_bald:
        return
    w, line, volume = who.cheek_width, who.hairline_y, who.hair_volume
    temple = who.sideburn_y
    side = who.hair_parting
    hairline = [
        (-w * 0.97, temple),
        (-w * 0.9, temple - 8),
        (-w * 0.72, line + 8 - side * 0.6),
        (-w * 0.36, line - side),
    ]
    hairline += [(0, line + who.hairline_peak), (w * 0.36, line + side), (w * 0.72, line + 8 + side * 0.6)]
    hairline += [(w * 0.9, temple - 8), (w * 0.97, temple)]
    front = smooth(hairline, is_closed=False)
    if who.fringe:
        inside = slice(len(front) // 4, -len(front) // 4)
        front[inside, 1] += np.where(np.arange(len(front[inside])) % 2, who.fringe, -who.fringe * 0.3)
    crown = [(w + volume * 0.6, -14), (w * 0.8, who.forehead_y - volume * 0.8), (0, who.forehead_y - 6 - volume)]
    crown += [(-w * 0.8, who.forehead_y - volume * 0.8), (-w - volume * 0.6, -14)]
    canvas.fill(np.concatenate([front, smooth(crown, is_closed=False)]), who.hair_colour, 3)
    for x in (-0.62, -0.28, 0.1, 0.45, 0.7):
        strand = [(x * w, line + 1 - abs(x) * 3), (x * w * 0.9 + side * 0.4, line - 9), (x * w * 0.6, line - 22)]
        canvas.stroke(strand, shade(who.hair_colour, 1.12), 0.6, 4)


def _paint_glasses(canvas: Canvas, who: Identity, shot: Shot) -> None:
    if shot.glasses == "none":
        return
    radius = np.array([who.glasses_size, who.glasses_size * who.glasses_aspect])
    # |x|^p + |y|^p = 1: p = 2 is round, p = 5 nearly a rectangle.
    frame = np.sign(UNIT_CIRCLE) * np.abs(UNIT_CIRCLE) ** (2 / who.glasses_squareness) * radius
    colour = (22, 20, 24) if shot.glasses == "sun" else who.glasses_colour
    for side in (-1, 1):
        rim = frame * (side, 1) + (side * (who.eye_distance + 0.5), 1.2)
        if shot.glasses == "sun":
            canvas.fill(rim, (30, 28, 34), 7)
            canvas.stroke([(side * who.eye_distance - 4, 3), (side * who.eye_distance + 1, -3)], (88, 88, 98), 1.2, 7)
        canvas.stroke(rim, colour, who.glasses_width, 7, is_closed=True)
        canvas.stroke([(side * (who.eye_distance + radius[0]), -1), (side * who.cheek_width, -2)], colour, 1.2, 3)
    gap = who.eye_distance + 0.5 - radius[0]
    canvas.stroke([(-gap, 0), (0, -1), (gap, 0)], colour, who.glasses_width, 9)


def _paint_occluder(canvas: Canvas, who: Identity, shot: Shot) -> None:
    x, y, angle = shot.occluder_place
    if shot.occluder == "bar":
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        bar = np.array([(-80, -6), (80, -6), (80, 6), (-80, 6)]) @ turn
        canvas.fill(bar + np.array([x, y]), shot.clothes_colour, 14)
    elif shot.occluder == "hand":
        skin = shade(who.skin_colour, 0.95)
        side = np.sign(x) or 1
        canvas.disc(side * 36, 62, 15, 17, skin, 14)
        for finger in range(4):
            tip = np.array([side * (30 - 5.5 * finger), 26 + 4.5 * finger + y * 0.15])
            canvas.stroke([tip, (side * (38 - 3 * finger), 58 + finger)], shade(skin, 0.8), 6.6, 14)
            canvas.stroke([tip, (side * (38 - 3 * finger), 58 + finger)], skin, 5.4, 14)
