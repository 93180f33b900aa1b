"""The OpenGL context, its programs, and the images that clips are drawn into; all rooms share them."""

from functools import cache
from typing import Any, NamedTuple

from vega3d.rooms.render import shaders
from vega3d.rooms.render.clip import EXPOSURE, GLOW, WHITE
from vega3d.rooms.scene.meshes import LEVELS

VERSION = 430  # of OpenGL: storage buffers, compute shaders, indirect drawing
SAMPLES = 4  # a pixel
LARGEST_IMAGE = 1 << 24  # [px], of all frames that are drawn together, which bounds the memory
PENDING = 2  # clips that are drawn before the first of them is read
MOST_RUNS = 1 << 16  # of faces that are drawn together
CLIP_DISTANCES = (0x3000, 0x3001)  # GL_CLIP_DISTANCE0, 1


class Target(NamedTuple):
    """Images for `frames` frames of `width` x `height` pixels, one under the other, and the words they are packed in.

    Args:
        width, height, frames: as above.
        surface: framebuffer of depths and instances.
        colour: framebuffer of several samples a pixel.
        resolved: framebuffer of their means.
        packed: buffers that are written in turns, so that one can be read while the next is drawn.
    """

    width: int
    height: int
    frames: int
    surface: Any
    colour: Any
    resolved: Any
    packed: list


class OpenGLContext:
    """A context without a window, by EGL. Belongs to the thread that made it.

    Args:
        device: number of the graphics card among those that EGL lists.

    Raises:
        ValueError: if moderngl, EGL or a driver of OpenGL 4.3 is missing.
    """

    def __init__(self, device: int = 0):
        self.gl = _standalone(device)
        self.gl.gc_mode = "auto"
        constants = {"LEVELS": LEVELS, "EXPOSURE": EXPOSURE, "WHITE": WHITE, "GLOW": GLOW, "SAMPLES": SAMPLES}
        sources = [
            _defined(source, constants)
            for source in (
                shaders.SURFACE_VERTEX,
                shaders.SURFACE_FRAGMENT,
                shaders.COLOUR_VERTEX,
                shaders.COLOUR_FRAGMENT,
                shaders.PACK,
            )
        ]
        self.surface = self.gl.program(vertex_shader=sources[0], fragment_shader=sources[1])
        self.colour = self.gl.program(vertex_shader=sources[2], fragment_shader=sources[3])
        self.pack = self.gl.compute_shader(sources[4])
        self.commands = self.gl.buffer(reserve=MOST_RUNS * 20, dynamic=True)
        self.runs = self.gl.buffer(reserve=MOST_RUNS * 12, dynamic=True)
        self.cameras = self.gl.buffer(reserve=64, dynamic=True)
        self._target: Target | None = None
        self.gl.enable_only(self.gl.DEPTH_TEST)
        for distance in CLIP_DISTANCES:
            self.gl.enable_direct(distance)

    @property
    def device(self) -> str:
        """The driver's name of the graphics card."""
        return str(self.gl.info["GL_RENDERER"])

    def together(self, width: int, height: int, runs: int) -> int:
        """How many frames of a size, of which each draws up to `runs` runs of faces, are drawn together."""
        rows = int(self.gl.info["GL_MAX_TEXTURE_SIZE"]) // height
        return max(1, min(rows, LARGEST_IMAGE // (width * height), MOST_RUNS // runs))

    def target(self, width: int, height: int, frames: int) -> Target:
        """Images for at least so many frames; valid until the next call."""
        last = self._target
        if last is None or (last.width, last.height) != (width, height) or last.frames < frames:
            self._release_target()
            self._target = last = self._new_target(width, height, frames)
        return last

    def _new_target(self, width: int, height: int, frames: int) -> Target:
        gl, size = self.gl, (width, height * frames)
        surface = gl.framebuffer(gl.texture(size, 2, dtype="f4"), gl.depth_renderbuffer(size))
        colour = gl.framebuffer(gl.texture(size, 4, samples=SAMPLES), gl.depth_renderbuffer(size, samples=SAMPLES))
        resolved = gl.framebuffer(gl.texture(size, 4))
        words = packed_words(width * height * frames)
        packed = [gl.buffer(reserve=4 * words, dynamic=True) for _ in range(PENDING)]
        return Target(width, height, frames, surface, colour, resolved, packed)

    def _release_target(self) -> None:
        if self._target is not None:
            surface, colour, resolved = self._target.surface, self._target.colour, self._target.resolved
            parts = [part for image in (surface, colour, resolved) for part in (*image.color_attachments, image)]
            for part in (*parts, surface.depth_attachment, colour.depth_attachment, *self._target.packed):
                part.release()
            self._target = None

    def release(self) -> None:
        """Frees the context and everything in it; renderers that use it cannot be used any more."""
        self._release_target()
        for part in (self.surface, self.colour, self.pack, self.commands, self.runs, self.cameras, self.gl):
            part.release()


@cache
def shared_context() -> OpenGLContext:
    """The context that renderers of one thread share if they are given none; lives as long as the process."""
    return OpenGLContext()


def packed_words(pixels: int) -> int:
    """Words of depth, instances and colours of so many pixels; four pixels are packed together."""
    return (pixels + 3) // 4 * 11


def _defined(source: str, constants: dict[str, float]) -> str:
    version, _, body = source.partition("\n")
    return "\n".join([version, *[f"#define {name} {value}" for name, value in constants.items()], body])


def _standalone(device: int) -> Any:
    try:
        import moderngl
    except ImportError as error:
        raise ValueError(
            'Rendering with OpenGL needs moderngl, which is missing. Run `pip install ".[render]"` in a clone, or '
            "render with EmbreeRenderer."
        ) from error
    settings: dict[str, Any] = {"backend": "egl", "device_index": device}
    try:
        return moderngl.create_context(require=VERSION, standalone=True, **settings)
    except Exception as error:  # moderngl raises nothing more special
        raise ValueError(
            f"EGL gives no OpenGL {VERSION / 100:.1f} on device {device} ({error}). Install Debian's libegl1, and "
            "libgl1-mesa-dri where there is no graphics card; on a bare NVIDIA machine set "
            "__EGL_VENDOR_LIBRARY_FILENAMES to the driver's 10_nvidia.json. Or render with EmbreeRenderer."
        ) from error
