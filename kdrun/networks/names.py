"""Parameters of networks whose values only the data know, under all the names that they have in libraries."""

CLASSES = ("num_classes", "num_labels")
CHANNELS = ("in_channels", "in_chans")
SIZE = ("image_size", "img_size")
VOCABULARY = ("vocabulary", "vocab_size")


def classified(classes: int, channels: int, size: object) -> dict[str, object]:
    """Name -> value, for a network of samples [channels, ...] whose sides are `size`."""
    return {**dict.fromkeys(CLASSES, classes), **dict.fromkeys(CHANNELS, channels), **dict.fromkeys(SIZE, size)}
