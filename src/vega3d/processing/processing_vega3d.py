"""`VegaProcessor`: messages, images and videos to one batch with both pixel streams."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .clip_geometry_vega3d import (
    DEPTH_HOLES,
    ClipGeometry,
    check_geometries,
    given_geometry,
    token_positions,
)
from .generator_frames_vega3d import DEFAULT_MAX_AREA, FrameSettings, fit_frames, pack_patches
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
from .video_vega3d import DEFAULT_NUM_FRAMES, VideoClip


class VegaProcessor(ProcessorMixin):
    """Prepares the semantic stream (the VLM's own pixels and tokens) and the generative stream from the same frames.

    The VLM's processor is built from the same sub-processors, and does all that concerns the VLM. The generative
    stream holds the frames as square uint8 patches, one row a patch, in (t, h, w) order, packed over all images or
    videos of the batch.

    `image_processor`, `tokenizer` and `video_processor` are the VLM's own.

    Args:
        chat_template: Jinja template of the conversation.
        vlm_processor_class: name of the VLM's processor class in transformers.
        num_frames: frames sampled from a video if a call does not say otherwise.
        generator_patch_size: side of a patch [px]: the VAE's stride times the patch size of the transformer.
        generator_max_area: the most pixels of a frame for the generator [px^2].
        generator_frame_fit: `resize` keeps the whole frame at its own aspect ratio, so that both streams see the same
            place at the same relative position; `center_crop` is the official preparation, for converted checkpoints.
        generator_frame_size: [height, width] of the centre crop [px].
        depth_holes: `mask` leaves pixels without depth out of the position of a token; `average` counts them as points
            in the camera, as the official code does.
    """

    _auto_class = "AutoProcessor"  # a saved processor names its code

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        vlm_processor_class="Qwen2_5_VLProcessor",
        num_frames=DEFAULT_NUM_FRAMES,
        generator_patch_size=16,
        generator_max_area=DEFAULT_MAX_AREA,
        generator_frame_fit="resize",
        generator_frame_size=None,
        depth_holes="mask",
    ):
        self.vlm_processor_class = vlm_processor_class
        self.num_frames = num_frames
        self.generator_patch_size = generator_patch_size
        self.generator_max_area = generator_max_area
        self.generator_frame_fit = generator_frame_fit
        self.generator_frame_size = None if generator_frame_size is None else list(generator_frame_size)
        self.depth_holes = depth_holes
        check_sampling(num_frames, None)
        if depth_holes not in DEPTH_HOLES:
            raise ValueError(f"`depth_holes` must be one of {DEPTH_HOLES}, but got {depth_holes!r}.")
        _ = self.frame_settings, self._vlm_processor_type()  # both raise a ValueError for a setting that cannot be
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        self.image_processor: Any = with_inputs(
            self.image_processor, "generator_pixel_values", "generator_image_grid_thw"
        )
        self.video_processor: Any = with_inputs(
            self.video_processor, "generator_pixel_values_videos", "generator_video_grid_thw"
        )

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
            *self.vlm_processor.model_input_names,  # and the generator's
            "visual_positions",
            "visual_positions_mask",
        ]

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; what `with_inputs` adds is no setting, and not saved."""
        values = super().to_dict()
        for part in ("image_processor", "video_processor"):
            values[part].pop("model_input_names", None)
        return values

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence | None = None, video_sizes: Sequence | None = None, **kwargs
    ) -> MultiModalData:
        """Numbers of placeholders of images (height, width) and of videos (frames sampled, height, width) [px].

        Serving engines ask for them before there is anything to prepare; `kwargs` are the VLM's processor's.
        """
        if video_sizes is not None:  # a single frame is given twice, as by `at_least_a_patch`
            video_sizes = [(2 if frames == 1 else frames, *size) for frames, *size in video_sizes]
        return self.vlm_processor._get_num_multimodal_tokens(
            image_sizes=image_sizes, video_sizes=video_sizes, **kwargs
        )

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
        depth=None,
        intrinsics=None,
        world_from_camera=None,
        **kwargs,
    ) -> BatchFeature:
        """Prepares a batch of prompts.

        Args:
            images: one image, a list, or a list for each prompt. An image is a path, an address, base64 text, a PIL
                image, or an array uint8[H, W, 3].
            text: one prompt or a list, with one placeholder for each image or video, in order.
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
            depth: float[T, H, W] along the optical axis [m] of all frames of a video, float[H, W] of an image, of the
                size of the frames; 0, NaN and infinity are holes. Of several visuals a list with an entry for each
                image, then each video, None where there is none. A `VideoClip` may have a `geometry` of its own.
            intrinsics: float[3, 3] [px], with the first pixel's centre at (0.5, 0.5): one for all, or for each visual
                one or one a frame.
            world_from_camera: float[T, 4, 4] of a video, float[4, 4] of an image: rigid poses [m], z up.
            **kwargs: for the VLM's processor (`padding`, `text_kwargs`, `images_kwargs`, ...). `size`, `min_pixels`
                and `max_pixels` concern the VLM's pixels alone. An option that has no effect, or would cut only one of
                the two pixel streams, is refused.

        Returns:
            What the VLM's processor returns, and for N images or videos of P patches in all:
            `generator_pixel_values`, `generator_pixel_values_videos`: uint8[P, 3 * patch_size ** 2];
            `generator_image_grid_thw`, `generator_video_grid_thw`: int64[N, 3], frames and patches per frame.
            If some have depth, also `visual_positions` float32[M, 3], the mean world point [m] of the pixels of each
            of the M visual tokens of all images, then all videos, zeros where there is none; and
            `visual_positions_mask` bool[M], where there is one.

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
        pictures = [load_image_array(image) for image in flatten_images(images)]
        videos = flatten_videos(videos)
        given = given_geometry(depth, intrinsics, world_from_camera, len(pictures), len(videos))
        clips = load_clips(videos, seconds, video_metadata, **sampling, geometries=given[len(pictures) :])
        geometries = [*given[: len(pictures)], *(clip.geometry for clip in clips)]
        check_geometries(pictures, geometries)
        semantic = self._semantic_stream(text, pictures, clips, videos_kwargs, return_tensors, kwargs)
        generative = self._generative_stream(pictures, clips)
        positions = self._positions(geometries, semantic)
        metadata = {"video_metadata": [clip.metadata() for clip in clips]} if return_metadata and clips else {}
        return BatchFeature(
            {**semantic, **generative, **positions, **metadata},
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
        depth=None,
        intrinsics=None,
        world_from_camera=None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        """Renders conversations and, with `tokenize=True`, prepares their images and videos too.

        As in transformers, with `num_frames` and `fps` for the videos, and depth and cameras as `__call__` takes them:
        content `{"type": "video", "video": ...}` or
        `{"type": "video", "path": ...}` is any video, `{"type": "image", "image" | "path" | "url": ...}` any image
        that `__call__` accepts. With `tokenize=True` other entries of a content item are refused.

        Returns:
            The prompt(s); with `tokenize=True` the `input_ids`, or with `return_dict=True` too the BatchFeature.
        """
        sampling = {"num_frames": num_frames, "fps": fps}
        given = dict(processor_kwargs or {})
        merged = {name: one_of(name, value, given.pop(name, None)) for name, value in sampling.items()}
        merged.update(depth=depth, intrinsics=intrinsics, world_from_camera=world_from_camera)
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
        """The generative stream alone, of the same arguments and as `__call__` makes it; to compute features early."""
        pictures = [load_image_array(image) for image in flatten_images(images)]
        clips = load_clips(flatten_videos(videos), None, None, **self._sampling(num_frames, fps, True))
        return BatchFeature(self._generative_stream(pictures, clips))

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, **kwargs) -> list[str]:
        """Decodes generated token ids int[B, L] as the VLM's processor does."""
        return self.vlm_processor.post_process_image_text_to_text(
            generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs
        )

    def video_text(self, clip: VideoClip, patch_grid: torch.Tensor) -> str:
        """What the VLM's processor writes in place of a video's placeholder: one placeholder for each token.

        For Qwen3-VL also the mean time of the frames of each temporal patch, as `<0.5 seconds>`, and its markers.
        `patch_grid` int[3] is the clip's row of `video_grid_thw`.
        """
        video = {"video_grid_thw": patch_grid[None], "video_metadata": [clip.metadata()]}
        return self.vlm_processor.replace_video_token(video, 0)

    def _sampling(self, num_frames: int | None, fps: float | None, do_sample_frames: bool) -> dict[str, Any]:
        """The options of `load_clips`: those of a call, or else the processor's own `num_frames`."""
        if not check_flag("do_sample_frames", do_sample_frames) and (num_frames is not None or fps is not None):
            raise ValueError(
                f"`do_sample_frames=False` keeps every frame, but `num_frames` ({num_frames!r}) or `fps` ({fps!r}) "
                "asks for some. Give one of them; times of frames in memory go into `seconds` or `video_metadata`."
            )
        usual = self.num_frames if num_frames is None and fps is None else num_frames
        return {"num_frames": usual, "fps": fps, "do_sample_frames": do_sample_frames}

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
        if not isinstance(text, (str, list, tuple)):
            raise ValueError(f"`text` must be one prompt or a list of prompts, but got {text!r}.")
        prompts = [text] if isinstance(text, str) else list(text)
        vlm = self.vlm_processor
        check_counts("image", [prompt.count(vlm.image_token) for prompt in prompts], images)
        check_counts("video", [prompt.count(vlm.video_token) for prompt in prompts], videos)

    def _semantic_stream(self, text, pictures, clips, videos_kwargs: dict, return_tensors, kwargs: dict) -> dict:
        """What the VLM's processor makes of frames that are already sampled."""
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
        """The patches and grids of all images and all videos, as far as there are any."""
        stream: dict[str, torch.Tensor] = {}
        if pictures:
            patches, grid = self._pack([picture[None] for picture in pictures])
            stream.update(generator_pixel_values=patches, generator_image_grid_thw=grid)
        if clips:
            patches, grid = self._pack([clip.frames for clip in clips])
            stream.update(generator_pixel_values_videos=patches, generator_video_grid_thw=grid)
        return stream

    def _positions(self, geometries: Sequence[ClipGeometry | None], semantic: Mapping[str, Any]) -> dict:
        """Where the visual tokens are, of all images, then all videos; empty if none of them has depth."""
        if not any(geometries):
            return {}
        merge = self.image_processor.merge_size
        grids = [grid for name in ("image", "video") for grid in np.asarray(semantic.get(f"{name}_grid_thw", ()))]
        points, masks = [], []
        for geometry, (t, h, w) in zip(geometries, grids, strict=True):
            grid = (int(t), int(h) // merge, int(w) // merge)
            if geometry is None:
                count = math.prod(grid)
                found, mask = np.zeros((count, 3), np.float32), np.zeros(count, bool)
            else:
                found, mask = token_positions(geometry, grid, self.depth_holes)
            points.append(torch.from_numpy(found))
            masks.append(torch.from_numpy(mask))
        return {"visual_positions": torch.cat(points), "visual_positions_mask": torch.cat(masks)}

    def _pack(self, clips: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns patches uint8[P, 3 * patch_size ** 2] and grids int64[N, 3] of N clips uint8[T, H, W, 3]."""
        settings = self.frame_settings
        frames = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]
        packed = [pack_patches(fit_frames(clip, settings), settings.patch_size) for clip in frames]
        patches, grids = zip(*packed, strict=True)
        return torch.cat(patches), torch.stack(grids)


def with_inputs(part: Any, *names: str) -> Any:
    """A copy of a sub-processor that claims inputs of the model, so that serving engines know their modality."""
    part = copy.copy(part)
    part.model_input_names = list(dict.fromkeys([*part.model_input_names, *names]))
    return part
