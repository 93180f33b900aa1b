"""A furnished room from a seed: shell, furniture, materials, and a camera trajectory through it."""
