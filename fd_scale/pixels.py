"""Pixel statistics that models are trained with, by name: mean and standard deviation of values in 0..1."""

PixelStatistics = tuple[tuple[float, ...], tuple[float, ...]]

PIXELS: dict[str, PixelStatistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
