"""Names of the official VEGA-3D and Wan checkpoints, and what they are called in diffusers, transformers and vega3d.

A table is a list of (pattern, replacement) for `re.sub`; of the patterns that match a key the first one counts.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

KeyTable = list[tuple[str, str]]
Value = TypeVar("Value")

WAN_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}

WAN_TRANSFORMER: KeyTable = [
    (r"^patch_embedding\.", "patch_embedding."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.ffn\.0\.", r"\1.ffn.net.0.proj."),
    (r"^(blocks\.\d+)\.ffn\.2\.", r"\1.ffn.net.2."),
    *(
        (rf"^(blocks\.\d+)\.{official}_attn\.{name}\.", rf"\1.{ours}.{WAN_ATTENTION[name]}.")
        for official, ours in (("self", "attn1"), ("cross", "attn2"))
        for name in WAN_ATTENTION
    ),
]

WAN_VAE_ENCODER: KeyTable = [
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^(encoder|decoder)\.middle\.0\.residual\.", r"\1.mid_block.resnets.0.residual."),
    (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"^(encoder|decoder)\.middle\.2\.residual\.", r"\1.mid_block.resnets.1.residual."),
    (r"^encoder\.downsamples\.(\d+)\.", r"encoder.down_blocks.\1."),
]

WAN_RESIDUAL: KeyTable = [
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"", ""),
]

NORMED_STREAMS: KeyTable = [(r"^norm1\.", "semantic_norm."), (r"^norm2\.", "generative_norm.")]
TOKEN_GATE: KeyTable = [(r"^gate_projection\.0\.", "gate."), *NORMED_STREAMS]

FUSION: dict[str, KeyTable] = {
    "token_gated_residual": [(r"^residual_scale$", "residual_scale"), *TOKEN_GATE],
    "token_gated_norm": TOKEN_GATE,
    "channel_gated": TOKEN_GATE,
    "instruction_gated": [
        (r"^gate_projection\.", "gate."),
        (r"^gate_bias$", "gate_bias"),
        (r"^context_scale$", "instruction_scale"),
        (r"^norm_ctx\.", "instruction_norm."),
        (r"^ctx_projection\.", "instruction_gate."),
        *NORMED_STREAMS,
    ],
    "concat": [(r"^projection\.", "projection."), *NORMED_STREAMS],
    "weighted": [(r"^weight_2d$", "semantic_weight"), (r"^weight_(gen|3d)$", "generative_weight")],
    "cross_attention": [
        (r"^cross_attn_blocks\.(\d+)\.norm1_(query|key|value)\.", r"blocks.\1.\2_norm."),
        (r"^cross_attn_blocks\.(\d+)\.norm2\.", r"blocks.\1.mlp_norm."),
        (r"^cross_attn_blocks\.(\d+)\.cross_attention\.", r"blocks.\1.attention."),
        (r"^cross_attn_blocks\.(\d+)\.mlp\.0\.", r"blocks.\1.mlp.0."),
        (r"^cross_attn_blocks\.(\d+)\.mlp\.3\.", r"blocks.\1.mlp.2."),
    ],
    "add": [],
    "generative_only": [],
}

FUSION_NAMES = {  # (branch, official name) -> ours; the same name means different things on the two branches
    ("main", "token_gated"): "token_gated_norm",
    ("sr", "token_gated"): "token_gated_norm",
    ("sr", "token_gated_residual"): "token_gated_residual",
    ("main", "gated"): "channel_gated",
    ("sr", "gated"): "channel_gated",
    ("main", "instruction_token_gated"): "instruction_gated",
    ("main", "context_gated"): "instruction_gated",
    ("main", "only"): "generative_only",
    **{(branch, name): name for branch in ("main", "sr") for name in ("add", "concat", "weighted", "cross_attention")},
}

PROJECTOR: KeyTable = [(r"^ln_q\.", "norm."), (r"^mlp\.", "mlp."), (r"^(0|2)\.", r"mlp.\1.")]

QWEN_VLM: KeyTable = [
    (r"^visual\.", "model.visual."),
    (r"^model\.", "model.language_model."),
    (r"^lm_head\.", "lm_head."),
]

GROUNDING_HEAD: KeyTable = [
    (r"^ground_head_query\.", "query_mlp."),
    (r"^ground_head_obj\.", "object_mlp."),
    (r"^ground_head_zero_target$", "no_target"),
    (r"^ground_head\.", "query_mlp."),
]


WAN_TEXT_ENCODER: KeyTable = [
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.(q|k|v|o)\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
]

TOWER = "generative_encoder.tower.model."
SCENE_VLM = r"^(lm_head|model\.(embed_tokens|layers|norm|vision_tower|vision_resampler|mm_projector|image_newline))\b"


def rename(state: Mapping[str, Value], table: KeyTable) -> dict[str, Value]:
    """A state dict, or whatever else goes by its keys, under our names.

    Raises:
        ValueError: if the table knows no name for a key.
    """
    renamed = {}
    for key, value in state.items():
        row = next((row for row in table if re.search(row[0], key)), None)
        if row is None:
            raise ValueError(f"No vega3d name is known for {key!r}: the checkpoint is of another kind.")
        renamed[re.sub(*row, key, count=1)] = value
    return renamed


def rename_vae(state: Mapping[str, Value], num_res_blocks: int) -> dict[str, Value]:
    """Official Wan VAE -> `AutoencoderKLWan`; the decoder's flat list of blocks becomes levels."""
    per_level = num_res_blocks + 2  # residual blocks, then one up-sampler

    def name_upsample(match: re.Match) -> str:
        level, block = divmod(int(match[1]), per_level)
        part = "upsamplers.0" if block == per_level - 1 else f"resnets.{block}"
        return f"decoder.up_blocks.{level}.{part}."

    flat = {re.sub(r"^decoder\.upsamples\.(\d+)\.", name_upsample, key): value for key, value in state.items()}
    return rename(rename(flat, [*WAN_VAE_ENCODER, (r"^decoder\.up_blocks\.", "decoder.up_blocks.")]), WAN_RESIDUAL)
