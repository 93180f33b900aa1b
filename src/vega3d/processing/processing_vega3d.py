"""`VegaProcessor`: messages, images and videos to one batch with both pixel streams."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .generator_frames_vega3d import FrameSettings, fit_frames, pack_patches
from .media_vega3d import (
    at_least_a_patch,
    check_counts,
    flatten_images,
    flatten_videos,
    load_clips,
    load_image_array,
)
from .processor_checks_vega3d import (
    check_conversations,
    check_options,
    check_vlm_parts,
    one_of,
    template_errors,
    value_errors,
)
from .sampling_vega3d import check_flag, check_sampling
from .video_vega3d import VideoClip


class VegaProcessor(ProcessorMixin):
    """Prepares the semantic stream (the VLM's own pixels and tokens) and the generative stream from the same frames.

    The VLM's processor is built from the same sub-processors, and does all that concerns the VLM. The generative
    stream holds the frames as square uint8 patches, one row a patch, in (t, h, w) order, packed over all images or
    videos of the batch.

    Args:
        image_processor: of the VLM.
        tokenizer: of the VLM.
        video_processor: of the VLM.
        chat_template: Jinja template of the conversation.
        vlm_processor_class: name of the VLM's processor class in transformers.
        num_frames: frames sampled from a video if a call does not say otherwise.
        generator_patch_size: side of a patch [px]: the VAE's stride times the patch size of the transformer.
        generator_max_area: the most pixels of a frame for the generator [px^2].
        generator_frame_fit: `resize` keeps the whole frame at its own aspect ratio, so that both streams see the same
            place at the same relative position; `center_crop` is the official preparation, for converted checkpoints.
        generator_frame_size: [height, width] of the centre crop [px].
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        vlm_processor_class="Qwen2_5_VLProcessor",
        num_frames=16,
        generator_patch_size=16,
        generator_max_area=399360,
        generator_frame_fit="resize",
        generator_frame_size=None,
    ):
        self.vlm_processor_class = vlm_processor_class
        self.num_frames = num_frames
        self.generator_patch_size = generator_patch_size
        self.generator_max_area = generator_max_area
        self.generator_frame_fit = generator_frame_fit
        self.generator_frame_size = None if generator_frame_size is None else list(generator_frame_size)
        self._check_settings()
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)

    @classmethod
    def from_vlm_processor(cls, processor: ProcessorMixin, **settings) -> "VegaProcessor":
        """Builds the processor around that of a VLM; `settings` are the other arguments of the constructor."""
        return cls(
            processor.image_processor,
            processor.tokenizer,
            processor.video_processor,
            chat_template=processor.chat_template,
            vlm_processor_class=type(processor).__name__,
            **settings,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; code in the folder is neither run nor asked about without `trust_remote_code=True`.

        Raises:
            ValueError: if files hold something else than a processor's settings, or a chat template that fails.
        """
        kwargs.setdefault("trust_remote_code", False)
        with value_errors(f"The processor in {pretrained_model_name_or_path}"):
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            check_vlm_parts(processor)
        return processor

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        """As in transformers."""
        # Processors saved before the first release, the embedded one among them, call the patch size `generator_cell`.
        renamed = {"generator_cell": "generator_patch_size"}
        values = {renamed.get(name, name): value for name, value in processor_dict.items()}
        return super().from_args_and_dict(args, values, **kwargs)

    @property
    def frame_settings(self) -> FrameSettings:
        """How frames are prepared for the generator; raises a ValueError if a setting is out of range."""
        return FrameSettings(
            self.generator_patch_size, self.generator_max_area, self.generator_frame_fit, self.generator_frame_size
        )

    @property
    def vlm_processor(self) -> Any:
        """The VLM's own processor; it shares the sub-processors, so changes to them are seen at once."""
        return self._vlm_processor_type()(
            image_processor=self.image_processor,
            tokenizer=self.tokenizer,
            video_processor=self.video_processor,
            chat_template=self.chat_template,
        )

    @property
    def image_token(self) -> str:
        return self.vlm_processor.image_token

    @property
    def video_token(self) -> str:
        return self.vlm_processor.video_token

    @property
    def image_token_id(self) -> int:
        return self.vlm_processor.image_token_id

    @property
    def video_token_id(self) -> int:
        return self.vlm_processor.video_token_id

    @property
    def model_input_names(self) -> list[str]:
        return [
            *self.vlm_processor.model_input_names,
            "generator_pixel_values",
            "generator_image_grid_thw",
            "generator_pixel_values_videos",
            "generator_video_grid_thw",
        ]

    def __call__(
        self,
        images=None,
        text=None,
        videos=None,
        num_frames: int | None = None,
        fps: float | None = None,
        seconds: Sequence | None = None,
        video_metadata: Sequence | Mapping | None = None,
        do_sample_frames: bool = True,
        return_metadata: bool = False,
        return_tensors: str | None = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Prepares a batch of prompts.

        Args:
            images: one image, a list, or a list for each prompt. An image is a path, an address, base64 text, a PIL
                image, or an array uint8[H, W, 3].
            text: one prompt or a list, with one image or video placeholder for each image or video, in order.
            videos: one video, a list, or a list for each prompt. A video is a path (of a video file or of a folder of
                images), a `VideoClip`, an array uint8[T, H, W, 3], or a list of frames or of image paths.
            num_frames: frames sampled evenly over each video, the processor's own `num_frames` if `fps` is not given.
            fps: frames a second sampled from each video instead.
            seconds: for each video the times of its frames [s], or None where they are unknown or in the file. Frames
                without times count as one a second.
            video_metadata: the same in transformers' form: for each video `fps` or `duration`, and `frames_indices`
                where frames were left out.
            do_sample_frames: False keeps all frames of each video.
            return_metadata: also return `video_metadata`, one for each video; its `timestamps` are the times of the
                frames used [s].
            return_tensors: "pt" for tensors; None leaves the token ids as lists.
            **kwargs: for the VLM's processor (`padding`, `text_kwargs`, `images_kwargs`, ...); `size`, `min_pixels`
                and `max_pixels` are of the VLM's pixels alone. What has no effect, or would cut one of the two pixel
                streams alone, is refused.

        Returns:
            What the VLM's processor returns, and for N images or videos of P patches in all:
            `generator_pixel_values`, `generator_pixel_values_videos`: uint8[P, 3 * patch_size ** 2];
            `generator_image_grid_thw`, `generator_video_grid_thw`: int64[N, 3], frames and patches per frame.

        Raises:
            ValueError: if images or videos and placeholders differ in number, or an input cannot be used.
        """
        check_options(self.vlm_processor, kwargs, images is not None, videos is not None)
        videos_kwargs = dict(kwargs.pop("videos_kwargs", None) or {})
        num_frames = one_of("num_frames", num_frames, videos_kwargs.pop("num_frames", None))
        fps = one_of("fps", fps, videos_kwargs.pop("fps", None))
        video_metadata = one_of("video_metadata", video_metadata, videos_kwargs.pop("video_metadata", None))
        return_metadata = videos_kwargs.pop("return_metadata", return_metadata)
        do_sample_frames = videos_kwargs.pop("do_sample_frames", do_sample_frames)
        sampling = self._sampling(num_frames, fps, do_sample_frames)
        # Text that is cleaned of control tokens may hold placeholders that do not count; the VLM's processor knows.
        if text is not None and not kwargs.get("sanitize_control_tokens"):
            self._check_counts(text, images, videos)
        pictures = [] if images is None else [load_image_array(image) for image in flatten_images(images)]
        clips = load_clips([] if videos is None else flatten_videos(videos), seconds, video_metadata, **sampling)
        semantic = self._semantic_stream(text, pictures, clips, videos_kwargs, return_tensors, kwargs)
        generative = self._generative_stream(pictures, clips)
        metadata = {"video_metadata": [clip.metadata() for clip in clips]} if return_metadata and clips else {}
        return BatchFeature(
            {**semantic, **generative, **metadata},
            tensor_type=return_tensors,
            skip_tensor_conversion=self.skip_tensor_conversion,
        )

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation,
        chat_template: str | None = None,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        """Renders conversations and, with `tokenize=True`, prepares their images and videos too.

        As in transformers, with `num_frames` and `fps` for the videos: content `{"type": "video", "video": ...}` or
        `{"type": "video", "path": ...}` is any video, `{"type": "image", "image" | "path" | "url": ...}` any image
        that `__call__` accepts. With `tokenize=True` other entries of a content item are refused.

        Returns:
            The prompt(s); with `tokenize=True` the `input_ids`, or with `return_dict=True` too the BatchFeature.
        """
        sampling = {"num_frames": num_frames, "fps": fps}
        given = dict(processor_kwargs or {})
        merged = {name: one_of(name, value, given.pop(name, None)) for name, value in sampling.items()}
        processor_kwargs = {**given, **{name: value for name, value in merged.items() if value is not None}}
        if kwargs.get("tokenize"):
            check_conversations(conversation)
        with template_errors():
            return super().apply_chat_template(
                conversation, chat_template=chat_template, processor_kwargs=processor_kwargs, **kwargs
            )

    def generator_inputs(
        self,
        images: Sequence | None = None,
        videos: Sequence | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
    ) -> BatchFeature:
        """The generative stream alone, as `__call__` makes it; for features that are computed ahead.

        Args:
            images: as in `__call__`.
            videos: as in `__call__`; frames are sampled as there.
            num_frames: as in `__call__`.
            fps: as in `__call__`.
        """
        pictures = [] if images is None else [load_image_array(image) for image in flatten_images(images)]
        clips = load_clips(
            [] if videos is None else flatten_videos(videos), None, None, **self._sampling(num_frames, fps, True)
        )
        return BatchFeature(self._generative_stream(pictures, clips))

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, **kwargs) -> list[str]:
        """Decodes generated token ids int[B, L] as the VLM's processor does."""
        return self.vlm_processor.post_process_image_text_to_text(
            generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs
        )

    def video_text(self, clip: VideoClip, patch_grid: torch.Tensor) -> str:
        """What the VLM's processor writes in place of a video's placeholder.

        Args:
            clip: the frames used.
            patch_grid: int[3], its row of `video_grid_thw`.

        Returns:
            One placeholder for each token; for Qwen3-VL also the mean time of the frames of each temporal patch, as
            `<0.5 seconds>`, and its markers.
        """
        video = {"video_grid_thw": patch_grid[None], "video_metadata": [clip.metadata()]}
        return self.vlm_processor.replace_video_token(video, 0)

    def _sampling(self, num_frames: int | None, fps: float | None, do_sample_frames: bool) -> dict[str, Any]:
        """How frames are sampled, by the processor's own number if a call does not say."""
        if not check_flag("do_sample_frames", do_sample_frames) and (num_frames is not None or fps is not None):
            raise ValueError(
                f"`do_sample_frames=False` keeps every frame, but `num_frames` ({num_frames!r}) or `fps` ({fps!r}) "
                "asks for some. Give one of them; times of frames in memory go into `seconds` or `video_metadata`."
            )
        usual = self.num_frames if num_frames is None and fps is None else num_frames
        return {"num_frames": usual, "fps": fps, "do_sample_frames": do_sample_frames}

    def _check_settings(self) -> None:
        """Raises a ValueError if a setting is out of range."""
        check_sampling(self.num_frames, None)
        _ = self.frame_settings  # checks them
        self._vlm_processor_type()

    def _vlm_processor_type(self) -> type[ProcessorMixin]:
        name = self.vlm_processor_class
        found = self.get_possibly_dynamic_module(name) if str(name).endswith("Processor") else None
        if not isinstance(found, type) or not issubclass(found, ProcessorMixin):
            raise ValueError(
                "`vlm_processor_class` must name a processor class of transformers, such as 'Qwen2_5_VLProcessor', "
                f"but got {name!r}."
            )
        return found

    def _check_counts(self, text, images, videos) -> None:
        """Raises a ValueError unless the images and videos fit the placeholders of the prompts."""
        if not isinstance(text, (str, list, tuple)):
            raise ValueError(f"`text` must be one prompt or a list of prompts, but got {text!r}.")
        prompts = [text] if isinstance(text, str) else list(text)
        vlm = self.vlm_processor
        check_counts("image", [prompt.count(vlm.image_token) for prompt in prompts], images)
        check_counts("video", [prompt.count(vlm.video_token) for prompt in prompts], videos)

    def _semantic_stream(self, text, pictures, clips, videos_kwargs: dict, return_tensors, kwargs: dict) -> dict:
        """Runs the VLM's processor on frames that are already sampled."""
        kwargs = {**kwargs, "text": text, "return_tensors": return_tensors}
        if pictures:
            images_kwargs = kwargs.get("images_kwargs") or {}
            kwargs.update(images=pictures, images_kwargs={**images_kwargs, "input_data_format": "channels_last"})
        if clips:
            fixed = {
                "input_data_format": "channels_last",
                "do_sample_frames": False,
                "video_metadata": [clip.metadata() for clip in clips],
            }
            kwargs.update(
                videos=[at_least_a_patch(clip.frames) for clip in clips], videos_kwargs={**videos_kwargs, **fixed}
            )
        try:
            return dict(self.vlm_processor(**kwargs))
        except StrictDataclassError as error:
            raise ValueError(f"An option of the VLM's processor cannot be used: {error}") from error

    def _generative_stream(self, pictures: list[np.ndarray], clips: list[VideoClip]) -> dict:
        """Fits and packs all frames for the generator."""
        stream: dict[str, torch.Tensor] = {}
        if pictures:
            patches, grid = self._pack([picture[None] for picture in pictures])
            stream.update(generator_pixel_values=patches, generator_image_grid_thw=grid)
        if clips:
            patches, grid = self._pack([clip.frames for clip in clips])
            stream.update(generator_pixel_values_videos=patches, generator_video_grid_thw=grid)
        return stream

    def _pack(self, clips: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns patches uint8[P, 3 * patch_size ** 2] and grids int64[N, 3] of N clips uint8[T, H, W, 3]."""
        settings = self.frame_settings
        frames = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]
        packed = [pack_patches(fit_frames(clip, settings), settings.patch_size) for clip in frames]
        patches, grids = zip(*packed, strict=True)
        return torch.cat(patches), torch.stack(grids)
