"""Names of colours that people would agree on."""

import numpy as np

DARK, LIGHT = 22.0, 88.0  # L* of black and white
GREYS = (38.0, 72.0)  # L* of grey
COLOURLESS = 7.0  # C* of black, grey and white
WHITE_POINT = (0.95047, 1.0, 1.08883)  # D65

# Hue [deg], least and greatest C* and L* in CIE L*a*b*; gaps between the names are colours that people argue about.
HUES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "pink": ((-30, 25), (16, 60), (62, 90)),
    "red": ((10, 43), (35, 120), (25, 58)),
    "brown": ((44, 84), (12, 55), (20, 52)),
    "orange": ((46, 72), (48, 120), (56, 80)),
    "beige": ((60, 100), (10, 32), (70, 90)),
    "yellow": ((80, 105), (42, 120), (65, 95)),
    "green": ((112, 178), (14, 120), (22, 85)),
    "blue": ((232, 304), (14, 120), (18, 85)),
    "purple": ((307, 335), (16, 120), (18, 75)),
}


def lab(colour: np.ndarray) -> np.ndarray:
    """float[3]: CIE L*a*b* (D65) of an sRGB colour uint8[3]."""
    scaled = np.asarray(colour, float) / 255
    light = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ light
    scale = xyz / WHITE_POINT
    root = np.where(scale > (6 / 29) ** 3, np.cbrt(scale), scale / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def colour_name(colour: np.ndarray) -> str | None:
    """The name of an sRGB colour uint8[3], or None where people would not agree on one."""
    lightness, a, b = lab(colour)
    chroma = float(np.hypot(a, b))
    if chroma < COLOURLESS:
        if lightness < DARK:
            return "black"
        if lightness > LIGHT:
            return "white"
        return "grey" if GREYS[0] < lightness < GREYS[1] else None
    hue = float(np.degrees(np.arctan2(b, a)))
    named = [
        name
        for name, (turn, strength, brightness) in HUES.items()
        if any(turn[0] <= hue + whole <= turn[1] for whole in (0, 360))
        and strength[0] <= chroma <= strength[1]
        and brightness[0] <= lightness <= brightness[1]
    ]
    return named[0] if len(named) == 1 else None
