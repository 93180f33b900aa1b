"""Pictures of a room: rays on the CPU, OpenGL on a graphics card, and the light that both share."""
