"""The classes of things in rooms, and which objects of two packs were looked at and found good examples of them."""

# Made from boxes by `builders.py`; each has a size and colours of its own.
BUILT = ("door", "window", "rug", "picture", "book", "pillow", "coffee table", "tv stand", "shelf", "ceiling light")


def _identifiers(table: dict[str, str], library: str = "") -> dict[str, tuple[str, ...]]:
    """For each class the identifiers of its objects, `{library}/{model}`."""
    return {name: tuple(library + model for model in models.split()) for name, models in table.items()}


# The CC0 pack, of all splits but `test_unseen`. Synonyms are merged (couch: sofa; dustbin: trash can; bookcase with
# doors: cabinet). Left out: brands, flat placeholders, wall and door parts, meshes that their simplification has torn
# (a bed, a desk, speakers, the football table) and things of a few millimetres.
VETTED = _identifiers(
    {
        "armchair": "armchair2 modernArmchair",
        "ball": "basketball",
        "barrel": "barrel",
        "bed": "bed2 bedWithTexture bed3",
        "bench": "pianoBench",
        "bidet": "bidet",
        "bottle": "mamadeira yogurtBottle",
        "box": "ammoBox crate box",
        "bread": "bread",
        "briefcase": "briefcase",
        "cabinet": "bookcase cupboard drawersCabinet glassDoorCabinet lowerCabinet smallUpperCabinet upperCabinet",
        "ceiling fan": "ceilingFan",
        "chair": "armchair oakChair plasticChair sillaBlanca chair antiqueChair chairWithCushion chair2 osakaChair "
        "designChair thonet",
        "chandelier": "lamp2",
        "clock": "cuckooClock",
        "coffee machine": "coffeeBrewer",
        "crib": "babyRockingBed",
        "cup": "caffe_final beerGlass",
        "desk": "technicalTable1 lbDesk",
        "fan": "tableFan",
        "fire extinguisher": "fireExtinguisher",
        "guitar": "electricGuitar",
        "handbag": "handbag",
        "headphones": "headphones",
        "lamp": "desklamp JapaneseLantern",
        "milk carton": "tetrapak",
        "mixer": "kitchenaid",
        "nightstand": "bedsideTable2",
        "oven": "doubleOven",
        "piano": "pianoAQueue",
        "plant": "littlePlant augalas cactus decorativePlant orchids plant",
        "pool table": "poolTable",
        "radiator": "radiator1 radiator3",
        "refrigerator": "refrigerator largeFridge",
        "rocking horse": "caballito",
        "shelf": "shelves verticalShelves",
        "shoes": "slippers bootie",
        "shower": "showerStall",
        "sink": "modernVanity sinkCabinet",
        "sofa": "L_shaped_sofa sofa couch couch2 sofa2 winchesterSofa",
        "stool": "silla2 stool stool2",
        "table": "oakTable tableWithTablecloth table",
        "teddy bear": "teddyBear",
        "toilet": "toiletsUnit",
        "towel": "towel3",
        "trash can": "dustbin",
        "tv": "led_tv",
        "wardrobe": "wardrobeWithSlidingDoors",
        "whiteboard": "whiteBoard",
    },
    "BlendSwap-CC-0/",
)

CLASSES = tuple(sorted({*VETTED, *BUILT}))

# The CC-BY pack of `test_unseen`: other objects of the same classes, chosen as above. Also left out: things that are
# made to hang above the floor, and thin leaves and lamp shades that do not survive simplification.
VETTED_UNSEEN = _identifiers(
    {
        "armchair": "BlendSwap-CC-BY/armchair1 BlendSwap-CC-BY/armChair2 BlendSwap-CC-BY/fotel "
        "KatorLegaz/chair-ottoman KatorLegaz/mid-century-chair Scopia/armchair Scopia/armchair1 Scopia/armchair2 "
        "Scopia/armchair3 Scopia/ext_chair Scopia/modern_armchair Scopia/rattanArmchair",
        "ball": "BlendSwap-CC-BY/ballonFoot",
        "bed": "BlendSwap-CC-BY/juniorBed Scopia/bed1 Scopia/children_bed Scopia/day_bed_frame Scopia/iron_bed",
        "bench": "KatorLegaz/bench KatorLegaz/painted-bench",
        "bottle": "BlendSwap-CC-BY/beer_bottle KatorLegaz/red-wine-bottle-01 KatorLegaz/spray-bottle "
        "Scopia/com_bath2_jabon_pijo Scopia/wine_bottle",
        "box": "BlendSwap-CC-BY/gift Scopia/cardboard-box Scopia/open-cardboard-box",
        "cabinet": "BlendSwap-CC-BY/dresserWithDrawers BlendSwap-CC-BY/kitchenDrawersCabinet "
        "BlendSwap-CC-BY/kitchenIsland BlendSwap-CC-BY/kitchenLowerCabinet "
        "BlendSwap-CC-BY/kitchenSmallLowerCabinet KatorLegaz/filing-cabinet Scopia/office_box",
        "chair": "BlendSwap-CC-BY/cafe_set_mota_chair BlendSwap-CC-BY/cafe_set_tonon_chair BlendSwap-CC-BY/chair3 "
        "BlendSwap-CC-BY/chair4 BlendSwap-CC-BY/chairWithCushion BlendSwap-CC-BY/classSeat "
        "BlendSwap-CC-BY/ella_chair_f BlendSwap-CC-BY/foldingChair BlendSwap-CC-BY/kitchenChair "
        "BlendSwap-CC-BY/leaf_chair BlendSwap-CC-BY/plaidChair KatorLegaz/cafe-chair KatorLegaz/dining-chair "
        "KatorLegaz/office-chair Scopia/chair Scopia/chair3 Scopia/chair4 Scopia/kids_desk_chair "
        "Scopia/office_chair Scopia/plastic_chair Scopia/silla_teca Scopia/tubular_chair "
        "Scopia/white_kitchen_chair",
        "coffee machine": "KatorLegaz/coffee-maker Scopia/coffee_machine",
        "coffee table": "BlendSwap-CC-BY/coffeeTable Scopia/coffee-table2 Scopia/living_room_table "
        "Scopia/saloon_table Scopia/table_wood_and_iron",
        "crib": "Scopia/crib",
        "cup": "BlendSwap-CC-BY/coffee_cup KatorLegaz/coffee-mug Scopia/cup",
        "desk": "BlendSwap-CC-BY/officeTable BlendSwap-CC-BY/simpleDesk KatorLegaz/custom-desk "
        "Scopia/kids_desk_table Scopia/kids_wooden_desk",
        "lamp": "BlendSwap-CC-BY/lamp KatorLegaz/pedestal-vase-lamp Scopia/desk_lamp1 Scopia/little_lamp2 "
        "Scopia/livingroom_lamp1 Scopia/table_lamp",
        "nightstand": "BlendSwap-CC-BY/bedsideTable",
        "oven": "BlendSwap-CC-BY/largeStove",
        "piano": "BlendSwap-CC-BY/piano",
        "plant": "BlendSwap-CC-BY/luckyBamboo BlendSwap-CC-BY/spatifilum BlendSwap-CC-BY/succulentPlant "
        "Scopia/bonsai-tree Scopia/maceta",
        "radiator": "BlendSwap-CC-BY/modernRadiator",
        "refrigerator": "KatorLegaz/fridge",
        "shelf": "BlendSwap-CC-BY/bookcase KatorLegaz/full-bookcase KatorLegaz/utility-shelving",
        "shoes": "Scopia/mocassin Scopia/sneakers Scopia/woman_shoes",
        "sink": "BlendSwap-CC-BY/kitchenSink BlendSwap-CC-BY/washbasin_jay_hardy Scopia/bathroom_vanity",
        "sofa": "BlendSwap-CC-BY/couch3 BlendSwap-CC-BY/sofa2 KatorLegaz/futon-couch "
        "KatorLegaz/mid-century-bench-sofa KatorLegaz/mid-century-sofa Scopia/beige_sofa Scopia/beige_sofa_2seats "
        "Scopia/burlap_sofa Scopia/clear_sofa Scopia/convertible-sofa-BZ-closed Scopia/leather_sofa "
        "Scopia/rattanSofa Scopia/simple_sofa",
        "stool": "BlendSwap-CC-BY/green_stool KatorLegaz/bar-stool Scopia/bar_chair Scopia/kitchen_stool",
        "table": "BlendSwap-CC-BY/cafe_set_mota_table BlendSwap-CC-BY/cafe_set_tonon_table BlendSwap-CC-BY/table "
        "KatorLegaz/cafe-table KatorLegaz/folding-table KatorLegaz/glass-dining-table Scopia/black_table "
        "Scopia/glass_table_office Scopia/metal_glass_table Scopia/round-table Scopia/table-on-trestles "
        "Scopia/table-with-leaning-feet Scopia/table4 Scopia/white_kitchen_table "
        "Scopia/wooden_office_alder_table Scopia/wooden_table_office",
        "toilet": "BlendSwap-CC-BY/modernToilet BlendSwap-CC-BY/toilets_unit_jay_hardy",
        "towel": "BlendSwap-CC-BY/towel Scopia/com_bath3",
        "trash can": "KatorLegaz/bullet-trash-can KatorLegaz/recycling-bin",
        "tv": "Scopia/tv Scopia/wall-flat-tv",
        "tv stand": "BlendSwap-CC-BY/tvStand",
        "wardrobe": "BlendSwap-CC-BY/wardrobe BlendSwap-CC-BY/wardrobe2 Scopia/wardrobe1",
    }
)
