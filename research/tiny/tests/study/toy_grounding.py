"""The toy study with expressions."""

from dataclasses import replace

from research.tiny.study.recipe import GroundingRecipe, Recipe


def grounding_recipe(toy_recipe: Recipe, **options) -> Recipe:
    """The toy study with expressions; its arms have a position code, but one."""
    trained, semantic = toy_recipe.arms["trained"], toy_recipe.arms["semantic"]
    arms = {
        "semantic": replace(semantic, position_code="sin3d"),
        "trained": replace(trained, position_code="sin3d"),
        "unplaced": trained,
    }
    rates = {**toy_recipe.training.learning_rates, "ground": 1e-2}
    return replace(
        toy_recipe,
        name=options.pop("name", "toy-grounding"),
        arms=arms,
        seeds=[0],
        grounding=GroundingRecipe(clips=1, expressions=3, boxes=64, head="relations", **options),
        training=replace(toy_recipe.training, learning_rates=rates),
    )
