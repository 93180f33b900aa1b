"""The graphics cards that EGL lists, and those of them that a process may draw on."""

import ctypes

MOST_CARDS = 64
EGL_EXTENSIONS = 0x3055  # asks for a card's extensions, which tell its driver


def visible_cards(count: int, visible: str | None) -> list[int]:
    """Which of `count` cards a process may draw on: those of a list such as "0,2", or all where it names none."""
    named = [int(word) for word in (visible or "").split(",") if word.strip().isdecimal()]
    return [card for card in named if card < count] or list(range(count))


def egl_cards() -> int:
    """How many cards of the kind of its first one EGL lists; 1 where it cannot list them."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return 1
    address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(("eglGetProcAddress", egl))
    listing, describing = address(b"eglQueryDevicesEXT"), address(b"eglQueryDeviceStringEXT")
    if not (listing and describing):
        return 1
    devices, count = (ctypes.c_void_p * MOST_CARDS)(), ctypes.c_int()
    ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(listing)(
        MOST_CARDS, ctypes.cast(devices, ctypes.c_void_p), ctypes.cast(ctypes.byref(count), ctypes.c_void_p)
    )
    describe = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)(describing)
    kinds = [describe(device, EGL_EXTENSIONS) for device in devices[: count.value]]
    return max(1, sum(kind == kinds[0] for kind in kinds))
