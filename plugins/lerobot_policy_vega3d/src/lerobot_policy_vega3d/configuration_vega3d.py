"""Settings of the policy, as LeRobot's commands take them: `--policy.type=vega3d --policy.NAME=VALUE`."""

from dataclasses import dataclass, field

from draccus.utils import DecodingError
from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from vega3d.robotics.lerobot_layout import camera_name
from vega3d.training.parts import LEARNING_RATES, RESIDUAL_SCALE_RATE, check_parts, learning_rates

NORMALISATIONS = ("quantiles", "min_max", "mean_std")


@PreTrainedConfig.register_subclass("vega3d")
@dataclass
class Vega3dConfig(PreTrainedConfig):
    """Settings of `Vega3dPolicy`.

    Args:
        base_model: fused model to start from (`vega3d-tiny`, a folder, a Hub id), or a policy of `vega3d train`;
            not read again once there is a checkpoint of LeRobot.
        cameras: the feature of LeRobot that each camera is, in the order of the prompt; empty is all image features.
        chunk_size: K, actions of a prediction.
        n_action_steps: of them carried out before the next prediction.
        normalisation: of states and actions within the policy, `action_normalisation` of `VegaConfig`; a policy that
            is trained already keeps its own.
        tune: parts that are trained; `llm-lora` is none of them.
        learning_rates: of parts, in place of the defaults.
        residual_scale_rate: learning rate of the gate's scale r.
        warmup_steps: of the rates, which then fall as a cosine.
        seed: of the first weights of the head.

    Raises:
        DecodingError: for a value that cannot be.
    """

    base_model: str = "vega3d-tiny"
    cameras: dict[str, str] = field(default_factory=dict)
    chunk_size: int = 8
    n_action_steps: int = 8
    normalisation: str = "quantiles"
    tune: list[str] = field(default_factory=lambda: ["gate", "projector", "act"])
    learning_rates: dict[str, float] = field(default_factory=dict)
    residual_scale_rate: float = RESIDUAL_SCALE_RATE
    warmup_steps: int = 100
    seed: int = 0
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self._check()
        except ValueError as error:  # the one line that LeRobot's commands print keeps the words of this class alone
            raise DecodingError((), str(error)) from error

    def _check(self) -> None:
        check_parts(self.tune)
        learning_rates(self.tune, self.learning_rates)
        if "llm-lora" in self.tune:
            raise ValueError(
                "tune names llm-lora, whose adapters `vega3d train` makes alone. Name llm, or leave it out."
            )
        if self.n_obs_steps != 1:
            raise ValueError(
                f"n_obs_steps is {self.n_obs_steps}, but the policy sees one image of each camera. Give 1."
            )
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"n_action_steps is {self.n_action_steps}, but must be from 1 to chunk_size={self.chunk_size}."
            )
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation is {self.normalisation!r}, but must be one of {list(NORMALISATIONS)}.")
        scaled = sorted(name for name, mode in self.normalization_mapping.items() if mode.value != "IDENTITY")
        if scaled:
            raise ValueError(
                f"normalization_mapping scales {scaled}, but `normalisation` of the policy does. Give IDENTITY."
            )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW; each group of parameters has a rate of its own, so that `lr` is the one of no group."""
        return AdamWConfig(lr=LEARNING_RATES["act"], weight_decay=0.0, grad_clip_norm=1.0)

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        return DiffuserSchedulerConfig(name="cosine", num_warmup_steps=self.warmup_steps)

    def validate_features(self) -> None:
        """Fills in `cameras`, and keeps their features alone.

        Raises ValueError if there is no camera, state or action, or a camera that cannot be.
        """
        images = self.image_features
        if not self.cameras:
            self.cameras = {camera_name(key): key for key in images}
        if not self.cameras:
            raise ValueError("There is no camera: no feature of the data is an image.")
        for name, key in self.cameras.items():
            if key not in images:
                raise ValueError(f"The camera {name!r} is {key!r}, but image features are {list(images)}.")
            if images[key].shape[0] != 3:
                raise ValueError(
                    f"{key} has the shape {list(images[key].shape)}, but must be [3, H, W]. Leave it out of `cameras`."
                )
        if self.robot_state_feature is None or self.action_feature is None:
            given = [*(self.input_features or {}), *(self.output_features or {})]
            raise ValueError(f"The policy needs {OBS_STATE!r} and {ACTION!r}, but the features are {given}.")
        kept = set(self.cameras.values())
        self.input_features = {
            key: feature
            for key, feature in (self.input_features or {}).items()
            if feature.type is not FeatureType.VISUAL or key in kept
        }
