"""Images brought to one size, as TaskSet does with sets of large images.

The whole image is scaled, whatever its proportions, with Pillow's bicubic filter. It
averages over all the pixels that one new pixel covers; the filter in TaskSet looks at
four by four of them, so that a photograph of 512 pixels became mostly noise.
"""

import numpy as np
from jaxtyping import UInt8


def resize(
    image: UInt8[np.ndarray, "height width channels"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width channels"]:
    """The image with `size` = (height, width)."""
    from PIL import Image  # lazy: comes with the extra `data`

    height, width = size
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(height, width, image.shape[-1])
