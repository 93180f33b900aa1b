"""The classes of things in rooms, and which objects of the CC0 pack were looked at and found good examples of them."""

# Made from boxes by `builders.py`, because the pack has none; each has a size and colours of its own.
BUILT = ("door", "window", "rug", "picture", "book", "pillow", "coffee table", "tv stand", "shelf", "ceiling light")

# Class of each vetted object, by its number in the CC0 pack as fetched. Synonyms are merged (couch: sofa; dustbin:
# trash can; bookcase with doors: cabinet). Left out: brands, flat placeholders, wall and door parts, meshes that
# their simplification has torn (a bed, a desk, speakers, the football table) and things of a few millimetres.
VETTED = {
    "armchair": (80, 91),
    "ball": (72,),
    "barrel": (66,),
    "bed": (2, 4, 82),
    "bench": (138,),
    "bidet": (95,),
    "bottle": (21, 59),
    "box": (65, 67, 96),
    "bread": (84,),
    "briefcase": (97,),
    "cabinet": (5, 68, 127, 128, 135, 141, 146),
    "ceiling fan": (86,),
    "chair": (0, 23, 28, 73, 87, 93, 99, 103, 111, 126, 145),
    "chandelier": (108,),
    "clock": (89,),
    "coffee machine": (100,),
    "crib": (81,),
    "cup": (8, 83),
    "desk": (45, 134),
    "fan": (43,),
    "fire extinguisher": (76,),
    "guitar": (70,),
    "handbag": (107,),
    "headphones": (63,),
    "lamp": (14, 132),
    "milk carton": (49,),
    "mixer": (17,),
    "nightstand": (3,),
    "oven": (15,),
    "piano": (27,),
    "plant": (71, 94, 98, 102, 110, 112),
    "pool table": (30,),
    "radiator": (31, 113),
    "refrigerator": (114, 133),
    "rocking horse": (7,),
    "shelf": (35, 56),
    "shoes": (79, 124),
    "shower": (116,),
    "sink": (109, 140),
    "sofa": (19, 61, 88, 101, 117, 123),
    "stool": (38, 41, 142),
    "table": (24, 44, 118),
    "teddy bear": (47,),
    "toilet": (53,),
    "towel": (55,),
    "trash can": (104,),
    "tv": (20,),
    "wardrobe": (62,),
    "whiteboard": (58,),
}

CLASSES = tuple(sorted({*VETTED, *BUILT}))
