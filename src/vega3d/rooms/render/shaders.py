"""GLSL of the OpenGL renderer.

The frames of a clip lie one under the other in one tall image, whose rows run downwards as those of a frame do.
"""

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
