"""config.json and preprocessor_config.json of transformers' Perceivers: what is read of them, and what is written.

Keys that say nothing of the model (`transformers_version`, and those that old versions wrote) are passed over; keys
that old versions did not have yet have the defaults that transformers gives them.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from perceivers.errors import ModelError
from perceivers.inputs.resize import Resize
from perceivers.models.convert.imagenet import unique_names
from perceivers.settings import Settings

# What any published one could have; larger numbers are damage.
Size = Annotated[int, Field(gt=0, le=2**24)]

# Their names of activations that are ours. gelu is the exact one.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu2": "relu_squared",
}
# Stands in a config that this library wrote where a stem's kernels do not have H and W swapped, as on the hub.
KERNELS, UPRIGHT = "perceivers_kernels", "upright"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Theirs(Settings):
    """A file of another library: what is not known here is passed over."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Config(_Theirs):
    """What config.json says of the model, under their names and with their defaults."""

    architectures: tuple[str, ...] | None = None
    model_type: str = "perceiver"
    num_latents: Size = 256
    d_latents: Size = 1280
    d_model: Size = 768
    num_blocks: int = Field(default=1, ge=0, le=10_000)
    num_self_attends_per_block: Size = 26
    num_self_attention_heads: Size = 8
    num_cross_attention_heads: Size = 8
    qk_channels: Size | None = None
    v_channels: Size | None = None
    cross_attention_shape_for_attention: Literal["kv", "q"] = "kv"
    self_attention_widening_factor: Size = 1
    cross_attention_widening_factor: Size = 1
    hidden_act: str = "gelu"
    use_query_residual: bool = True
    vocab_size: Size = 262
    # The second name is an older one.
    max_position_embeddings: Size | None = None
    seq_len: Size | None = None
    image_size: Size = 56
    train_size: tuple[Size, Size] = (368, 496)
    num_frames: Size = 16
    audio_samples_per_frame: Size = 1920
    samples_per_patch: Size = 16
    output_shape: tuple[Size, Size, Size, Size] = (1, 16, 224, 224)
    output_num_channels: Size = 512
    label_channels: Size = Field(default=1024, alias="_label_trainable_num_channels")
    num_labels: Size | None = None
    id2label: Mapping[int, str] | None = Field(default=None, max_length=2**20)
    problem_type: str | None = None
    kernels: str | None = Field(default=None, alias=KERNELS)

    def positions(self) -> int:
        """How many positions a text has."""
        return self.max_position_embeddings or self.seq_len or 2048

    def activation(self) -> str:
        """Ours. Raises `ModelError` for one that is not."""
        if self.hidden_act not in ACTIVATIONS:
            raise ModelError(
                f"config.json: hidden_act is '{self.hidden_act}', which has no activation here; those that have are "
                f"{', '.join(ACTIVATIONS)}."
            )
        return ACTIVATIONS[self.hidden_act]

    def classes(self) -> tuple[str, ...]:
        """The names of the classes in order. A name that stands there twice gets its number behind it."""
        names = dict(self.id2label or {})
        count = len(names) or self.num_labels or 2
        listed = [names.get(n, f"LABEL_{n}") for n in range(count)]
        if set(names) - set(range(count)):
            raise ModelError(f"config.json: id2label has the numbers {sorted(names)[:10]}; wanted 0 to {count - 1}.")
        return unique_names(listed)


class Picture(_Theirs):
    """What preprocessor_config.json says of images, under their names and with their defaults."""

    do_rescale: bool = True
    rescale_factor: float = Field(default=1 / 255, gt=0)
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = _IMAGENET_MEAN
    image_std: tuple[float, float, float] = _IMAGENET_STD
    size: Size | Mapping[str, int] = 224
    do_center_crop: bool = True
    crop_size: Size | Mapping[str, int] = 256

    def height_width(self) -> tuple[int, int]:
        """What images are scaled to."""
        return _sides(self.size, 224)

    def resize(self, deviations: bool) -> Resize:
        """How images are brought to that size: theirs is antialiased, that of DeepMind's notebook is not.

        Shares of the shorter side other than 224 of 256 and all of it are none here; they are read as all of it.
        """
        if not self.do_center_crop:
            return "stretch"
        if _sides(self.crop_size, 256) != _cut_to(self.height_width()):
            return "crop"
        return "centre_antialiased" if deviations else "centre_clamped"

    def statistics(self) -> dict[str, list[float]]:
        """Mean and standard deviation a channel, in the units of 8-bit images."""
        unit = 1 / self.rescale_factor if self.do_rescale else 1.0
        mean = self.image_mean if self.do_normalize else (0.0,) * 3
        std = self.image_std if self.do_normalize else (1.0,) * 3
        return {"mean": [m * unit for m in mean], "std": [s * unit for s in std]}


def _cut_to(size: Sequence[int]) -> tuple[int, int]:
    """Their crop_size for 7/8 of the shorter side: 256 for 224."""
    height, width = size
    return round(8 * height / 7), round(8 * width / 7)


def _sides(given: int | Mapping[str, int], default: int) -> tuple[int, int]:
    if isinstance(given, int):
        return given, given
    shortest = given.get("shortest_edge", default)
    return given.get("height", shortest), given.get("width", shortest)


def picture_json(size: Sequence[int], mean: Sequence[float], std: Sequence[float], resize: Resize) -> dict[str, Any]:
    """preprocessor_config.json for images of that size, mean and standard deviation in the units of 8-bit images."""
    height, width = size
    # They cut the middle `size / crop_size` of the shorter side out; `crop` takes all of it, the others 7/8.
    crop = _cut_to(size) if resize.startswith("centre") else size
    return {
        "image_processor_type": "PerceiverImageProcessor",
        "do_center_crop": resize != "stretch",
        "crop_size": {"height": crop[0], "width": crop[1]},
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [m / 255 for m in mean],
        "image_std": [s / 255 for s in std],
    }
