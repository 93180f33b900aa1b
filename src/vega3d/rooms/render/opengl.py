"""Renders a room with OpenGL on a graphics card: what `EmbreeRenderer` shows, many times faster.

All frames of a clip are drawn into one tall image by one call and read back once, because waiting for a read takes
longer than drawing a frame. Depth and ids are drawn without antialiasing, exactly at the pixels' centres.

A room comes as flat arrays (`DrawArrays`), which other processes can make. All rooms share one `OpenGLContext`.
"""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from vega3d.extras import optional_module
from vega3d.geometry import invert_pose
from vega3d.rooms.render import EXPOSURE, GLOW, WHITE, Clip, camera, texel_density
from vega3d.rooms.render.cards import egl_cards, visible_cards
from vega3d.rooms.render.light import Caster, bake_light
from vega3d.rooms.scene.meshes import LEVELS
from vega3d.rooms.scene.scene import Scene
from vega3d.rooms.scene.trajectory import Trajectory

CHUNK = 2048  # faces at most that are culled together
VERTEX = np.dtype([("position", "<f4", 3), ("uv", "<f4", 2), ("light", "<f2", 6)])
FACE = np.dtype([("texture", "<i4"), ("density", "<f4")])
LEVEL = np.dtype([("offset", "<i4"), ("height", "<i4"), ("width", "<i4"), ("glow", "<f4")])
VERSION = 430  # of OpenGL: storage buffers, compute shaders, indirect drawing
SAMPLES = 4  # a pixel
LARGEST_IMAGE = 1 << 24  # [px], of all frames that are drawn together, which bounds the memory
PENDING = 2  # clips that are drawn before the first of them is read
MOST_RUNS = 1 << 16  # of faces that are drawn together
CLIP_DISTANCES = (0x3000, 0x3001)  # GL_CLIP_DISTANCE0, 1
NEAR = 0.04  # [m]; cameras keep farther from everything
GROUP = 64  # invocations, of PACK

# The frames of a clip lie one under the other in one tall image, whose rows run downwards as those of a frame do.
HEADER = """#version 430
layout(std430, binding = 0) readonly buffer Cameras { mat4 cameras[]; };
uniform vec4 lens;  // 2 fx / W, 2 fy / H, near [m], far [m]
uniform float frames;
in vec3 position;
in uvec3 run;  // frame, instance, first face

// Camera coordinates [m] to the frame's part of the tall image; what is above or below it is clipped.
vec4 placed(vec3 view) {
    vec2 across = lens.xy * view.xy;
    gl_ClipDistance[0] = view.z + across.y;
    gl_ClipDistance[1] = view.z - across.y;
    float depth = (view.z * (lens.w + lens.z) - 2.0 * lens.w * lens.z) / (lens.w - lens.z);
    return vec4(across.x, (across.y + view.z * (1.0 + 2.0 * float(run.x))) / frames - view.z, depth, view.z);
}
"""

SURFACE_VERTEX = (
    HEADER
    + """
flat out float instance;
void main() {
    gl_Position = placed((cameras[run.x] * vec4(position, 1.0)).xyz);
    instance = float(run.y);
}
"""
)

SURFACE_FRAGMENT = """#version 430
flat in float instance;
out vec2 surface;  // depth [m], instance
void main() { surface = vec2(1.0 / gl_FragCoord.w, instance); }
"""

COLOUR_VERTEX = (
    HEADER
    + """
in vec2 uv;
in uvec3 light;  // six halves: front, back
centroid out vec2 texture_place;
centroid out vec3 front, back, view;
flat out int first_face;
void main() {
    view = (cameras[run.x] * vec4(position, 1.0)).xyz;
    gl_Position = placed(view);
    vec2 first = unpackHalf2x16(light.x), middle = unpackHalf2x16(light.y), last = unpackHalf2x16(light.z);
    front = vec3(first, middle.x);
    back = vec3(middle.y, last);
    texture_place = uv;
    first_face = int(run.z);
}
"""
)

COLOUR_FRAGMENT = """#version 430
layout(std430, binding = 1) readonly buffer Surfaces { ivec2 surfaces[]; };  // texture, bits of texels a metre
layout(std430, binding = 2) readonly buffer Levels { ivec4 levels[]; };  // offset, height, width, bits of the glow
layout(std430, binding = 3) readonly buffer Texels { uint bytes[]; };
uniform float focal;  // [px]
centroid in vec2 texture_place;
centroid in vec3 front, back, view;
flat in int first_face;
out vec4 colour;

vec3 texel(int number) {
    int start = 3 * number, word = start >> 2, shift = 8 * (start & 3);
    uint bits = bytes[word] >> shift;
    if (shift > 8) bits |= bytes[word + 1] << (32 - shift);
    return unpackUnorm4x8(bits).rgb;
}

void main() {
    ivec2 surface = surfaces[first_face + gl_PrimitiveID];
    float footprint = length(view) / focal * intBitsToFloat(surface.y);
    int level = int(clamp(log2(max(footprint, 1e-3)) + 0.5, 0.0, LEVELS - 1.0));
    ivec4 place = levels[surface.x * LEVELS + level];
    int row = int(fract(1.0 - texture_place.y) * float(place.y)) % place.y;
    int column = int(fract(texture_place.x) * float(place.z)) % place.z;
    vec3 encoded = texel(place.x + row * place.z + column);
    bvec3 dark = lessThanEqual(encoded, vec3(0.04045));
    vec3 albedo = mix(pow((encoded + 0.055) / 1.055, vec3(2.4)), encoded / 12.92, dark);
    float glow = intBitsToFloat(place.w);
    // Rows run downwards, which turns the sense of faces round.
    vec3 received = gl_FrontFacing ? back : front;
    vec3 light = albedo * (glow == 0.0 ? received * EXPOSURE : vec3(GLOW * glow));
    vec3 curve = clamp(light * (1.0 + light / (WHITE * WHITE)) / (1.0 + 0.8 * light), 0.0, 1.0);
    vec3 bright = 1.055 * pow(curve, vec3(1.0 / 2.4)) - 0.055;
    colour = vec4(mix(bright, 12.92 * curve, lessThanEqual(curve, vec3(0.0031308))), 1.0);
}
"""

# Four pixels an invocation: their twelve bytes of colour are three words. Samples are averaged before, by the blit.
PACK = """#version 430
layout(local_size_x = 64) in;
layout(binding = 0) uniform sampler2D surface_image;
layout(binding = 1) uniform sampler2D colour_image;
layout(std430, binding = 4) writeonly buffer Packed { uint words[]; };  // depths, instances, colours
uniform int pixels, width;  // of all frames together, of one row [px]

void main() {
    int first = 4 * int(gl_GlobalInvocationID.x);
    int count = (pixels + 3) / 4 * 4;
    if (first >= count) return;
    uint colours[4];
    int row = first / width, column = first - row * width;
    for (int i = 0; i < 4; i++) {
        ivec2 pixel = ivec2(column, row);
        vec2 surface = texelFetch(surface_image, pixel, 0).rg;
        // The rounding of corners leaves gaps between triangles, which take a pixel beside them.
        if (surface.x == 0.0) {
            pixel.x = max(column - 1, 0);
            surface = texelFetch(surface_image, pixel, 0).rg;
            if (surface.x == 0.0) {
                pixel.x = min(column + 1, width - 1);
                surface = texelFetch(surface_image, pixel, 0).rg;
            }
        }
        words[first + i] = floatBitsToUint(surface.x);
        words[count + first + i] = uint(surface.y);
        vec4 mean = texelFetch(colour_image, pixel, 0);
        colours[i] = packUnorm4x8(mean / max(mean.a, 0.2)) & 0xffffffu;
        if (++column == width) { column = 0; row++; }
    }
    int place = 2 * count + 3 * int(gl_GlobalInvocationID.x);
    words[place] = colours[0] | colours[1] << 24;
    words[place + 1] = colours[1] >> 8 | colours[2] << 16;
    words[place + 2] = colours[2] >> 16 | colours[3] << 8;
}
"""


class DrawArrays(NamedTuple):
    """A room as the flat arrays that a graphics card draws: nothing in them points to Python objects."""

    vertices: np.ndarray  # VERTEX[V]: place [m], texture coordinates, light on the front and the back
    faces: np.ndarray  # int32[F, 3], sorted by instance
    surfaces: np.ndarray  # FACE[F]: number of the texture, and texels a metre
    levels: np.ndarray  # LEVEL[K, LEVELS]: place and size of each level of a texture's pyramid, and the texture's glow
    texels: np.ndarray  # uint8[N, 3], of `Textures`
    # int32[C, 3]: first face, number of faces and instance of runs of faces that are culled together
    chunks: np.ndarray
    spheres: np.ndarray  # float32[C, 4]: centre and radius around each run [m]


def draw_arrays(scene: Scene, light: np.ndarray) -> DrawArrays:
    """The arrays of a room, for `OpenGLRenderer`; `light` float32[V, 2, 3] is what `bake_light` gives for it.

    Raises:
        ValueError: if there is not one light a vertex, or the faces are not in the order of their instances.
    """
    mesh = scene.mesh
    if light.shape != (len(mesh.vertices), 2, 3):
        raise ValueError(f"Light is float32[{len(mesh.vertices)}, 2, 3] in this room, but got {light.shape}. Bake it.")
    if (np.diff(scene.instance) < 0).any():
        raise ValueError(
            "Faces are drawn in runs of one instance, but theirs do not ascend. Sort the faces by instance."
        )
    vertices = np.zeros(len(mesh.vertices), VERTEX)
    vertices["position"], vertices["uv"], vertices["light"] = mesh.vertices, mesh.uv, light.reshape(-1, 6)
    surfaces = np.zeros(len(mesh.faces), FACE)
    surfaces["texture"], surfaces["density"] = mesh.texture, texel_density(scene)
    levels = np.zeros(scene.textures.levels.shape[:2], LEVEL)
    for column, name in enumerate(("offset", "height", "width")):
        levels[name] = scene.textures.levels[..., column]
    levels["glow"] = scene.textures.glow[:, None]
    chunks = _chunks(scene.instance)
    spheres = _spheres(scene, chunks[:, 0])
    return DrawArrays(vertices, mesh.faces, surfaces, levels, scene.textures.texels, chunks, spheres)


def _chunks(instance: np.ndarray) -> np.ndarray:
    changes = np.flatnonzero(np.diff(instance)) + 1
    starts = np.unique(np.concatenate([changes, np.arange(0, len(instance), CHUNK)]))
    sizes = np.diff(np.append(starts, len(instance)))
    return np.stack([starts, sizes, instance[starts]], axis=1).astype(np.int32)


def _spheres(scene: Scene, starts: np.ndarray) -> np.ndarray:
    corners = scene.mesh.vertices.take(scene.mesh.faces.reshape(-1), axis=0)  # float32[3 F, 3]
    low, high = np.minimum.reduceat(corners, 3 * starts), np.maximum.reduceat(corners, 3 * starts)
    radius = np.linalg.norm(high - low, axis=1, keepdims=True) / 2
    return np.concatenate([(low + high) / 2, radius + 1e-4], axis=1).astype(np.float32)


class Target(NamedTuple):
    """Images for `frames` frames of `width` x `height` pixels, one below the other, and words to pack them in."""

    width: int
    height: int
    frames: int
    surface: Any  # framebuffer of depths and instances
    colour: Any  # framebuffer of several samples a pixel
    resolved: Any  # framebuffer of their means
    packed: list  # buffers that are written in turns, so that one can be read while the next is drawn


class OpenGLContext:
    """A context without a window on one of the graphics cards that EGL lists. It belongs to the thread that made it.

    Raises:
        ValueError: if EGL or a driver of OpenGL 4.3 is missing.
        MissingExtraError: if moderngl is not installed.
    """

    def __init__(self, device: int = 0):
        self.gl = _standalone(device)
        self.gl.gc_mode = "auto"
        self.surface = self._program(SURFACE_VERTEX, SURFACE_FRAGMENT)
        self.colour = self._program(COLOUR_VERTEX, COLOUR_FRAGMENT)
        self.pack = self.gl.compute_shader(_defined(PACK))
        self.commands = self.gl.buffer(reserve=MOST_RUNS * 20, dynamic=True)
        self.runs = self.gl.buffer(reserve=MOST_RUNS * 12, dynamic=True)
        self.cameras = self.gl.buffer(reserve=64, dynamic=True)
        self._target: Target | None = None
        self.gl.enable_only(self.gl.DEPTH_TEST)
        for distance in CLIP_DISTANCES:
            self.gl.enable_direct(distance)

    def _program(self, vertex: str, fragment: str) -> Any:
        return self.gl.program(vertex_shader=_defined(vertex), fragment_shader=_defined(fragment))

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
    """The context that renderers of one thread share if they are given none; lives as long as the process.

    The processes of a program draw on all cards of one kind that `CUDA_VISIBLE_DEVICES` leaves, each on one.
    """
    cards = visible_cards(egl_cards(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return OpenGLContext(cards[os.getpid() % len(cards)])


def packed_words(pixels: int) -> int:
    """Words of depth, instances and colours of so many pixels; four pixels are packed together."""
    return (pixels + 3) // 4 * 11


def _defined(source: str) -> str:
    """A shader that knows the constants of this module."""
    constants = {"LEVELS": LEVELS, "EXPOSURE": EXPOSURE, "WHITE": WHITE, "GLOW": GLOW, "SAMPLES": SAMPLES}
    version, _, body = source.partition("\n")
    return "\n".join([version, *[f"#define {name} {value}" for name, value in constants.items()], body])


def _standalone(device: int) -> Any:
    moderngl = optional_module("moderngl")
    settings: dict[str, Any] = {"backend": "egl", "device_index": device}
    try:
        return moderngl.create_context(require=VERSION, standalone=True, **settings)
    except Exception as error:  # moderngl raises nothing more special
        raise ValueError(
            f"EGL gives no OpenGL {VERSION / 100:.1f} on device {device} ({error}). Install Debian's libegl1, and "
            "libgl1-mesa-dri where there is no graphics card; on a bare NVIDIA machine set "
            "__EGL_VENDOR_LIBRARY_FILENAMES to the driver's 10_nvidia.json. Or render with EmbreeRenderer."
        ) from error


class OpenGLRenderer:
    """Renders any number of trajectories through a room (`draw_arrays`) that is on the graphics card until `release`.

    It draws with the context that this thread shares if none is given.

    Raises:
        ValueError: if EGL or a driver is missing.
        MissingExtraError: if moderngl is not installed.
    """

    def __init__(self, arrays: DrawArrays, context: OpenGLContext | None = None):
        self.context = shared_context() if context is None else context
        gl = self.context.gl
        self._arrays = arrays
        low, high = (bound(arrays.vertices["position"], axis=0) for bound in (np.min, np.max))
        self._far = 1.01 * float(np.linalg.norm(high - low)) + NEAR
        self._vertices, self._faces = gl.buffer(arrays.vertices), gl.buffer(arrays.faces)
        self._tables = [gl.buffer(arrays.surfaces), gl.buffer(arrays.levels), _with_room(gl, arrays.texels)]
        runs = (self.context.runs, "3u /i", "run")
        surface = [(self._vertices, "3f 5x4", "position"), runs]
        colour = [(self._vertices, "3f 2f 3u", "position", "uv", "light"), runs]
        self._surface = gl.vertex_array(self.context.surface, surface, index_buffer=self._faces)
        self._colour = gl.vertex_array(self.context.colour, colour, index_buffer=self._faces)

    @classmethod
    def from_scene(
        cls, scene: Scene, light: np.ndarray | None = None, context: OpenGLContext | None = None
    ) -> "OpenGLRenderer":
        """A renderer of a room; its `light` float32[V, 2, 3] is baked here if None."""
        light = bake_light(scene, Caster(scene.mesh)) if light is None else light
        return cls(draw_arrays(scene, light), context)

    def __enter__(self) -> "OpenGLRenderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Frees the room's memory on the graphics card."""
        for part in (self._surface, self._colour, self._vertices, self._faces, *self._tables):
            part.release()

    def render(self, trajectory: Trajectory, width: int, height: int) -> Clip:
        """The frames of a trajectory, with depth, ids and poses; raises ValueError unless 16 to 4096 px a side.

        Its images share one block of memory: copy what is kept alone.
        """
        return next(self.render_all([trajectory], width, height))

    def render_all(self, trajectories: Sequence[Trajectory], width: int, height: int) -> Iterator[Clip]:
        """The clips of `render`, faster: one is read while the next is drawn.

        The context can draw nothing else until the iterator has ended or is closed.
        """
        images = []
        for part in _pipelined(self._parts(trajectories, width, height)):
            images.append(self._read(part))
            if part.last:
                together = images[0] if len(images) == 1 else [np.concatenate(n) for n in zip(*images, strict=True)]
                rgb, depth, instance = together
                yield Clip(rgb, depth, instance, part.trajectory.world_from_camera, part.intrinsics)
                images = []

    def _parts(self, trajectories: Sequence[Trajectory], width: int, height: int) -> Iterator["_Part"]:
        """Draws the frames of trajectories, as many together as the context can."""
        cameras = [camera(trajectory, width, height) for trajectory in trajectories]
        together = self.context.together(width, height, len(self._arrays.chunks))
        most = max((len(trajectory.world_from_camera) for trajectory in trajectories), default=0)
        target = self.context.target(width, height, min(together, most))
        packed = itertools.cycle(target.packed)
        for trajectory, intrinsics in zip(trajectories, cameras, strict=True):
            lens = 2 * intrinsics[0, 0] / width, 2 * intrinsics[1, 1] / height, NEAR, self._far
            for start in range(0, len(trajectory.world_from_camera), together):
                poses = trajectory.world_from_camera[start : start + together]
                last = start + together >= len(trajectory.world_from_camera)
                part = _Part(trajectory, intrinsics, (len(poses), height, width), last, next(packed))
                count = self._aim(invert_pose(poses), lens)
                self._draw(target, part, count, lens)
                self._pack(target, part)
                yield part

    def _aim(self, cameras: np.ndarray, lens: tuple[float, float, float, float]) -> int:
        """Hands over the cameras float[T, 4, 4] and what each of them sees; returns the number of runs of faces."""
        context, chunks = self.context, self._arrays.chunks
        frames, seen = visible(self._arrays.spheres, cameras, lens)
        runs = np.stack([frames, chunks[seen, 2], chunks[seen, 0]], axis=1).astype(np.uint32)
        commands = np.zeros((len(runs), 5), np.uint32)  # count, instances, first index, base vertex, base instance
        commands[:, 0], commands[:, 1], commands[:, 2] = 3 * chunks[seen, 1], 1, 3 * chunks[seen, 0]
        commands[:, 4] = np.arange(len(runs))
        matrices = np.ascontiguousarray(cameras.transpose(0, 2, 1), np.float32)  # columns first
        for buffer, data in ((context.cameras, matrices), (context.runs, runs), (context.commands, commands)):
            buffer.orphan(max(buffer.size, data.nbytes))
            buffer.write(data)
        return len(runs)

    def _draw(self, target: Target, part: "_Part", count: int, lens: tuple[float, float, float, float]) -> None:
        context = self.context
        for binding, buffer in enumerate([context.cameras, *self._tables]):
            buffer.bind_to_storage_buffer(binding)
        context.colour["focal"] = float(part.intrinsics[0, 0])
        passes = ((target.surface, context.surface, self._surface), (target.colour, context.colour, self._colour))
        for image, program, mesh in passes:
            program["lens"], program["frames"] = lens, float(part.shape[0])
            image.use()
            image.viewport = (0, 0, target.width, target.height * part.shape[0])
            image.clear(0.0, 0.0, 0.0, 0.0, viewport=image.viewport)
            mesh.render_indirect(context.commands, count=count)

    def _pack(self, target: Target, part: "_Part") -> None:
        context, pack = self.context, self.context.pack
        pixels = math.prod(part.shape)
        context.gl.copy_framebuffer(target.resolved, target.colour)
        target.surface.color_attachments[0].use(0)
        target.resolved.color_attachments[0].use(1)
        part.packed.bind_to_storage_buffer(len(self._tables) + 1)
        pack["pixels"], pack["width"] = pixels, target.width
        pack.run(-(-packed_words(pixels) // (11 * GROUP)))
        context.gl.memory_barrier()

    def _read(self, part: "_Part") -> list[np.ndarray]:
        pixels = math.prod(part.shape)
        words = np.empty(packed_words(pixels), np.uint32)
        part.packed.read_into(words, words.nbytes)
        padded = len(words) // 11 * 4
        depth, instance = words[:pixels].view(np.float32), words[padded : padded + pixels].view(np.int32)
        rgb = words[2 * padded :].view(np.uint8)[: 3 * pixels]
        return [rgb.reshape(*part.shape, 3), depth.reshape(part.shape), instance.reshape(part.shape)]


class _Part(NamedTuple):
    """Frames of a trajectory that were drawn together."""

    trajectory: Trajectory  # the one that they belong to
    intrinsics: np.ndarray  # float[3, 3] [px]
    shape: tuple[int, int, int]  # number, height and width of the frames
    last: bool  # whether no more frames of the trajectory follow
    packed: Any  # buffer that they are in


def _pipelined(parts: Iterator[_Part]) -> Iterator[_Part]:
    """The same parts; each is given when the next one has been begun."""
    before = None
    for part in parts:
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def visible(spheres: np.ndarray, cameras: np.ndarray, lens: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Frames and spheres that may be seen in them: int[n] each, frame by frame, nearest first, which hides most early.

    Spheres are float32[C, 4] (`DrawArrays`), cameras float[T, 4, 4] camera_from_world; the lens is twice the focal
    length over width and over height, near and far [m].
    """
    centres = spheres[:, :3] @ cameras[:, :3, :3].transpose(0, 2, 1) + cameras[:, None, :3, 3]  # float[T, C, 3]
    radius = spheres[:, 3]
    seen = centres[..., 2] > lens[2] - radius
    for axis in (0, 1):
        beyond = np.abs(centres[..., axis]) * lens[axis] - centres[..., 2]
        seen &= beyond < radius * np.hypot(lens[axis], 1.0)
    order = np.argsort(np.linalg.norm(centres, axis=-1) - radius, axis=1)
    frames, ranks = np.nonzero(np.take_along_axis(seen, order, axis=1))
    return frames, order[frames, ranks]


def _with_room(gl, texels: np.ndarray):
    """A buffer of texels uint8[N, 3], whose last one can be read by words."""
    buffer = gl.buffer(reserve=texels.nbytes // 4 * 4 + 8)
    buffer.write(np.ascontiguousarray(texels))
    return buffer
