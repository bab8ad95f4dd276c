"""Settings of stage one: what a store holds, and how it is computed; one line each.

`[ours]` marks a default that neither paper states.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from zsseg.stages.setting_marks import Mark

Precision = Literal["fp32", "bf16", "fp16"]
Resize = Literal["pillow", "torch"]
"""Of the teacher's convolutions and matrix products; its weights and sums stay in fp32."""

BASIS_IMAGES = 128
"""Images at most that the basis of dense.format=pca:d is fitted to."""

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextConfig(BaseModel):
    """Text embeddings of all classes."""

    model_config = _STRICT

    templates: Literal["single", "coco15", "imagenet80"] = "imagenet80"
    """Prompt templates averaged per class (configs/templates.yaml). [ours]"""
    synonyms: Literal["mean", "max"] = "mean"
    """Of a class of several names. mean: their embeddings are averaged, as templates are; max: each
    is kept, and at each pixel the best of them counts, for as many products more. [ours]"""


class ViewConfig(BaseModel):
    """Recorded views: random crops of each image, with a CLS token each.

    Without any (`number` 0) the other fields change nothing. The teacher squeezes a crop to its
    native size, which is square for nearly every CLIP, and the student to `augmentation.crop`.
    With the default aspect a crop is square, but for one that would be larger than the image: it is
    as high or wide as the image then. So nothing is stretched by more than the teacher stretches
    the whole image in any case, by the image's own aspect.
    """

    model_config = _STRICT

    number: int = Field(default=0, ge=0, le=100)
    """Crops per image beside the whole image. [ours]"""
    scale: tuple[float, float] = (0.75, 2.0)
    """How much the image is enlarged, uniform: the side of a crop is the image's short side divided
    by this. What the student's `augmentation.scale` is where its crop is `short_side`. [ours]"""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Width / height of a crop in pixels, log-uniform; that of the student's crop. [ours]"""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a left-right flip (mmsegmentation's)."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives other crops."""

    @model_validator(mode="after")
    def _ranges_exist(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("aspect", self.aspect)):
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}]: give the smaller one, above 0, first")
        return self


class WindowConfig(BaseModel):
    """Windows that each dense pass is cut into, so that a ViT sees images of its own resolution."""

    model_config = _STRICT

    size: int = Field(default=0, ge=0)
    """Side of the square windows in pixels, a multiple of the teacher's stride: 224 for most ViTs,
    whose position embeddings then stay as they were trained. 0: whole images. [ours]"""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a window that the next one shows too, at least; both have a token there, and their
    mean is taken. [ours]"""


class DenseConfig(BaseModel):
    """Dense tokens: one per patch, projected into the text space.

    With one pass (the default) they are stored as the teacher gives them. With several (`scales`,
    `flip`, `windows`) the tokens of each pass are made 1 long and brought to the grid of `size`,
    and their mean is stored: as many bytes as those of one pass.
    """

    model_config = _STRICT

    size: tuple[int, int] | Literal["auto"] = (512, 512)
    """Height and width in pixels that the whole image is resized to for dense tokens; the stored
    grid has one token per stride of these. auto: the median shape of the data set's images, of
    512^2 to 1024^2 pixels, in multiples of the stride; a store that was made with it keeps its
    size. [ours]"""
    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(default=(1.0,), min_length=1)
    """One pass over the image for each, at `size` times this, in multiples of the stride. [ours]"""
    flip: bool = False
    """A second pass at each size over the mirrored image. The stored map of a mirrored image is
    then the mirrored map. [ours]"""
    windows: WindowConfig = WindowConfig()
    path: Literal["raw", "value", "clearclip", "nacl"] = "clearclip"
    """How the last block of a ViT tower mixes patches. raw: unchanged; value: the value path
    (MaskCLIP); clearclip: q-q attention without residual and FFN (ClearCLIP); nacl: k-k attention
    with a Gaussian of the distance (NACLIP). Towers that are no ViT of these kinds say so and give
    their projected last feature map (ResNets of CLIP: the value path). [ours]"""
    nacl_sigma: float = Field(default=5.0, gt=0)
    """Standard deviation of NACLIP's Gaussian, in patches; used by path `nacl` only."""
    format: str = Field(default="fp16", pattern=r"^(fp16|int8|none|pca:[1-9][0-9]{0,4})$")
    """What is stored of a dense token. fp16: half precision; int8: 8 bits per number and one scale
    per token, half the bytes; pca:128: its first 128 principal components in half precision; none:
    nothing, only regions are made of it. What a format loses is measured and printed. [ours]"""

    @field_validator("size", mode="before")
    @classmethod
    def _size_or_auto(cls, value: Any) -> Any:
        if value == "auto":
            return value
        pair = tuple(value) if isinstance(value, list | tuple) else ()
        if len(pair) == 2 and all(type(side) is int for side in pair):
            return pair
        raise ValueError("give [height, width] in pixels, or auto")

    @property
    def pixels(self) -> tuple[int, int]:
        """`size`, once `auto` is resolved."""
        assert self.size != "auto", "dense.size is resolved first"
        return self.size

    @property
    def plain(self) -> bool:
        """Is it one pass over the whole image at `size`?"""
        return self.scales == (1.0,) and not self.flip and not self.windows.size


PATH_SETTINGS: dict[str, tuple[str, ...]] = {"nacl": ("nacl_sigma",)}
"""The settings of DenseConfig that one path alone uses; only its recipe holds them."""

PASS_SETTINGS = ("scales", "flip", "windows")
"""The settings of DenseConfig that say which passes there are; a recipe holds those that differ
from one plain pass."""


class RegionConfig(BaseModel):
    """Latent regions: window seeds, k-means, merging (paper 1 Eq. 3-4, paper 2 Eq. 1)."""

    model_config = _STRICT

    windows: tuple[PositiveInt, ...] = Field(default=(8, 16), min_length=1)
    """Window sizes in tokens; the stride is half a window (both papers); sizes are ours. A window
    larger than the token grid is clipped to it. [ours]"""
    iterations: int = Field(default=10, ge=1)
    """Lloyd iterations of k-means at most. [ours]"""
    merge_threshold: float = Field(default=0.9, gt=-1, le=1)
    """Clusters whose centres' cosine exceeds this are merged, most similar first, each used once.
    [ours]"""
    minimum_tokens: int = Field(default=4, ge=1)
    """Regions of fewer tokens are dropped. [ours]"""
    unlabelled_share: float = Field(default=0.5, gt=0, le=1)
    """A token is unlabelled when at least this share of its pixels has no visible label. [ours]"""
    backend: Literal["auto", "cuml", "sklearn", "torch"] = "auto"
    """k-means on the GPU (cuML, or torch for many images at once) or on the CPU (scikit-learn; or
    torch). auto: the one that made an existing store, else scikit-learn without a GPU, torch on a
    GPU, or cuML where the package is there and the faster of both."""


class LocalConfig(BaseModel):
    """Local class-crop tokens: the CLS token of each mask's crop (paper 2, section 3.1)."""

    model_config = _STRICT

    enabled: bool = True
    """Without them a store serves every method but local distillation and latent classes (`c2s`,
    `best`), and the teacher has about half the work."""
    margin: float = Field(default=0.1, ge=0)
    """Share of the bounding box's sides added on each side, clipped at the image. [ours]"""
    max_masks: int = Field(default=32, ge=1, le=255)
    """Masks kept per image, largest first; more are counted and left out. [ours]"""


class PixelNamesConfig(BaseModel):
    """The map of names: the classes that the teacher gives each pixel, refined by the image."""

    model_config = _STRICT

    enabled: bool = False
    """Self-training with `source: teacher` reads the map where a store has it, and needs no dense
    tokens then. [ours]"""
    stride: int = Field(default=4, ge=1, le=64)
    """Side of a cell in pixels of `dense.size`: the map has the student's finest grid. [ours]"""
    temperature: float = Field(default=0.05, gt=0)
    """Of the softmax of the cosines of token and class name. [ours]"""
    refinement: Literal["none", "pamr"] = "pamr"
    """pamr: pixel-adaptive mask refinement by the image (Araslanov and Roth, CVPR 2020)."""
    iterations: int = Field(default=20, ge=1, le=100)
    """Of the refinement (PAMR: 10). [ours]"""
    dilations: tuple[PositiveInt, ...] = Field(default=(1, 2, 4), min_length=1)
    """Distances in cells of the rings of 8 neighbours that the refinement looks at (PAMR: 1, 2, 4,
    8, 12, 24, in pixels of the image). [ours]"""


class PrecomputeConfig(BaseModel):
    """Stage one. `zsseg precompute --set dense.size=[768,768]` sets any of these."""

    model_config = _STRICT

    text: TextConfig = TextConfig()
    views: ViewConfig = ViewConfig()
    dense: DenseConfig = DenseConfig()
    regions: RegionConfig = RegionConfig()
    local: LocalConfig = LocalConfig()
    pixel_names: PixelNamesConfig = PixelNamesConfig()
    shard_images: int = Field(default=64, ge=1, le=1024)
    """Images per shard: the unit of writing, of loss in a crash, and of one file per array."""
    batch: Annotated[int, Mark(result=False)] = Field(default=16, ge=1)
    """Images (or crops) per forward pass of the teacher. No recipe holds it: at most last digits
    follow from it."""
    shards_at_once: Annotated[int, Mark(result=False)] = Field(default=3, ge=1, le=64)
    """Shards that each process works on at the same time: one in the teacher, while others are
    read, mined for regions or written."""
    megapixels: Annotated[int, Mark(result=False)] = Field(default=64, ge=1)
    """Million pixels of images that each process decodes, resizes or cuts at the same time, 20
    bytes each; twice as many are kept from one artifact to the next, 4 bytes each. Images beyond
    that are read again for each artifact, and a larger one is worked on alone. [ours]"""
    device: Annotated[Literal["auto", "cpu", "cuda"], Mark(result=False)] = "auto"
    """Where the teacher runs; `cuda` without a usable GPU is an error. No recipe holds it: what
    follows from it by more than last digits is `precision` and `regions.backend`, which have
    recipes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the teacher's passes over images (prompts: always fp32). auto: that of an existing store,
    else fp32 on a CPU and fp16 on a GPU: fp16 keeps the 10 bits of each number that a store keeps,
    bf16 would keep 7. [ours]"""
    resize: Literal["auto", "pillow", "torch"] = "auto"
    """What resizes images and crops for the teacher, antialiased. torch takes a third of Pillow's
    time, and differs by 1 of 255 (rarely 2) at some pixels. auto: that of an existing store, else
    Pillow on a CPU, where the teacher takes far longer, and torch where a GPU waits. [ours]"""
