"""The card of the embedded checkpoint, with the figures of its experiment."""

from collections.abc import Mapping

CARD = """---
license: apache-2.0
language:
- en
library_name: vega3d
pipeline_tag: image-text-to-text
tags:
- spatial-reasoning
- video
- world-model
---

# {name}

A small vision-language model that answers questions about the space that a video shows, with a small frozen video
diffusion model at work: VEGA-3D (arXiv 2603.19235) at a size that runs on a CPU. It was trained on synthetic rooms
alone, by the recipe `{recipe}`, and knows nothing else.

{notice}

{summary}

| part | parameters |
|---|---|
{parameters}

{frames} frames of {size} x {size} px; hidden states after block {block} at timestep {timestep}, `clip_mode`
{clip_mode}; fusion `{fusion}`. {disk:.1f} MB on disk.

## How good is it

{own}

{tables}

The arms differ in the generator alone: the same rooms, first weights, order of the data and number of steps for each
seed. This checkpoint is seed {seed} of the arm `{arm}`, chosen among the seeds by its score on validation rooms; the
tables are means over all seeds.

Reproduce the score of this checkpoint:

```bash
vega3d evaluate {name} --benchmark rooms --limit 1100 --batch-size 1
```

It asks about the first rooms of the test split, rendered again, and so has a wider interval than the table.

## Data

{train_rooms} rendered rooms (`vega3d.rooms`), their questions computed from geometry. Furniture: the CC0 part of
Sweet Home 3D's models. No photograph, no person, no text of the web.

## Limits

Rooms that look otherwise than the synthetic ones, outdoor scenes, people, text in pictures and questions in other
words than those of VSI-Bench are outside what it has seen: it answers, and the answer means nothing.{untrained}
`test_unseen` shows what other furniture does to it. It is for tests, demonstrations and the study of the method, not
for use.

## Licence

Code and weights: Apache-2.0. The furniture in the rooms is in the public domain (CC0).
"""


def model_card(values: Mapping) -> str:
    """The card as Markdown.

    Args:
        values: `name`, `recipe`, `parameters` (by part), `frames`, `size` [px], `block`, `timestep`, `clip_mode`,
            `fusion`, `notice`, `disk` [MB], `summary`, `own` and `tables` (Markdown), `arm`, `seed`, `train_rooms`.
    """
    parts = "\n".join(f"| {part} | {count:,} |" for part, count in values["parameters"].items())
    return CARD.format(**{**values, "parameters": parts})
