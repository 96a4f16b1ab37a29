"""Windows of poolings as PyTorch spells them."""

from tinyflow.kernels.geometry import Window


def window(kernel, stride, padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    """A pair of paddings holds for both sides each; four are taken as they are."""
    sides = (padding[0], padding[0], padding[1], padding[1])
    border = sides if len(padding) == 2 else padding
    return Window(kernel, stride, border, dilation, ceil_mode)
