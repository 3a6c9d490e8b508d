"""From the bytes of a stored picture to what the encoder takes, quickly, with damage named."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ml.encoders import transforms
from ml.errors import DamagedPictureError


def read_picture(png: bytes, where: str) -> Tensor:
    """(3, 224, 224) uint8 from the bytes of a picture: what `VisionEncoder.forward` makes of it before the network.

    Args:
        png: the file's bytes.
        where: the picture's name in errors.
    Raises:
        DamagedPictureError: the bytes are no picture.
    """
    try:
        with Image.open(BytesIO(png)) as opened:
            pixels = np.array(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedPictureError(f"{where}: got no readable picture ({error}), expected a PNG; run `pitwall traces`") from error
    return transforms.resize(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].contiguous()
