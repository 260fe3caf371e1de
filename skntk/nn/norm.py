"""The table of normalizations that the builders of networks for images take."""

from torch import nn

from skntk.nn.parametrization import check_size

NORMS = (None, "layer", "group", "batch")


def image_norm(norm: str | None, channels: int) -> nn.Module:
    """Return a normalization of images with `channels` channels.

    Parameters
    ----------
    norm : {None, "layer", "group", "batch"}
        None for the identity; "layer" over all channels and pixels of an image; "group" over the
        pixels of a group of channels, where the number of groups is the largest divisor of
        `channels` up to 32 and to half of it, for a group of one channel loses the size of its
        signal; "batch" over the images of a batch, channel by channel.
    channels : int
        Channels of the image.

    Returns
    -------
    torch.nn.Identity, torch.nn.GroupNorm or torch.nn.BatchNorm2d

    Raises
    ------
    ValueError
        For an unknown norm, or no channels.

    References
    ----------
    Ba, Kiros & Hinton (2016), "Layer normalization"; Wu & He (2018), "Group normalization", for
    the 32 groups; Ioffe & Szegedy (2015), "Batch normalization".

    Examples
    --------
    >>> from skntk.nn.norm import image_norm
    >>> image_norm("group", 48).num_groups
    24
    """
    channels = check_size("channels", channels)
    if norm is None:
        return nn.Identity()
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    if norm == "group":
        return nn.GroupNorm(
            max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or 2 * g <= channels)),
            channels,
        )
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"norm={norm!r} must be one of {NORMS}.")
