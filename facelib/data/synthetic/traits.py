"""The traits of a synthetic face: who somebody is (`Identity`), and how a picture was taken (`Shot`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """What stays the same in every picture of one person.

    Lengths are pixels of the 112 x 112 crop in face space (see drawing.py), angles radians, colours RGB 0 to 255.
    Widths are half widths; `jaw_width` and `chin_width` are shares of `cheek_width`.
    """

    cheek_width: float
    jaw_width: float
    chin_width: float
    chin_y: float
    chin_cleft: bool
    forehead_y: float
    ear_size: float
    skin_colour: tuple[float, ...]
    blush: float
    eye_distance: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    eye_shadow: float
    eye_bags: bool
    lid_fold: float
    lash_width: float
    iris_size: float
    iris_colour: tuple[float, ...]
    brow_inner: float
    brow_length: float
    brow_height: float
    brow_thickness: float
    brow_slope: float
    brow_arch: float
    brow_colour: tuple[float, ...]
    nose_length: float
    nose_width: float
    bridge_width: float
    nose_tip: float
    mouth_y: float
    mouth_width: float
    mouth_curve: float
    upper_lip: float
    lower_lip: float
    lip_colour: tuple[float, ...]
    is_bald: bool
    hair_colour: tuple[float, ...]
    hair_volume: float
    hair_length: float
    hairline_y: float
    hairline_peak: float
    hair_parting: float
    sideburn_y: float
    fringe: float
    beard: str  # none | moustache | goatee | full
    glasses_habit: float  # share of the pictures that show this person's glasses
    glasses_size: float
    glasses_aspect: float
    glasses_squareness: float
    glasses_width: float
    glasses_colour: tuple[float, ...]
    freckles: tuple[tuple[float, float], ...]
    moles: tuple[tuple[float, float, float], ...]  # x, y, radius
    scars: tuple[tuple[float, float, float, float], ...]  # x, y, angle, length


@dataclass(frozen=True)
class Shot:
    """What differs from picture to picture: pose, expression, things worn, light and camera."""

    yaw: float  # radians
    pitch: float
    roll: float
    zoom: float
    shift: tuple[float, float]  # pixels of the crop: the landmarks were not found exactly
    smile: float
    mouth_opening: float  # pixels
    eye_opening: float  # 1 = as the identity's, below 0.3 = shut
    gaze: tuple[float, float]
    brow_raise: float  # pixels
    frown: float
    glasses: str  # none | usual | sun
    is_shaved: bool
    occluder: str  # none | bar | hand
    occluder_place: tuple[float, float, float]  # x, y, angle
    clothes_colour: tuple[float, ...]
    gain: tuple[float, ...]  # brightness and colour of the light, a channel each
    light_slope: tuple[float, float]  # relative change of brightness from middle to edge, x and y
    gamma: float
    blur: float  # sigma, pixels
    noise: float  # standard deviation, grey levels
