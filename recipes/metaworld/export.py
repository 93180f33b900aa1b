"""A trained policy as small as the embedded one has to be."""

from pathlib import Path

import torch

from research.tiny.study.export import strip_local
from vega3d import VegaForActionPrediction
from vega3d.files import check_new_folder, whole_folder
from vega3d.hub.load import load_task

NOTICE = "This model was trained as the policy of a robot, and answers no questions."


def export_policy(policy: Path, output: Path) -> Path:
    """Writes a policy in 16 bits and without code, which the package holds; `output` appears only when it is whole.

    Raises ValueError if there is no such policy, or `output` is in use.
    """
    check_new_folder(output)
    model, processor = load_task(VegaForActionPrediction, policy, device="cpu")
    model.config.notice = NOTICE
    model.cast_weights(torch.bfloat16)
    with whole_folder(output) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        strip_local(partial)
    return output
