"""Draw docs/img/predictor.png: an input, what the network sees of it, its logits, and the way back."""

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lungseg.checkpoint import InputSpec
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, heatmap, overlay
from lungseg.inference import window_starts
from lungseg.predictor import Predictor

COLOURS = [(230, 159, 0), (86, 180, 233)]
SIDE, SCALE = 96, 0.5


class SoftBlobs(nn.Module):
    """Stands in for a trained network: what is brighter than lung, and surrounded by lung."""

    def forward(self, image: Tensor) -> Tensor:
        self.seen = image
        near, far = (avg_pool2d(image, n, 1, n // 2, count_include_pad=False) for n in (3, 21))
        self.logits = 40 * (near - 0.45) - 80 * (far - 0.24).relu()
        return self.logits


s = phantom_patient(np.random.default_rng(3), num_slices=1, size=256, diameter_mm=(22.0, 28.0), kinds=("solid",))[0]
trained_on = {"size": [SIDE, SIDE], "scale": [SCALE, SCALE], "hu_window": [-1000.0, 400.0], "spacing_mm": None}
predictor = Predictor(SoftBlobs(), InputSpec.from_dict(trained_on))
grey = predictor.grey(s.hu)[40:216]  # (176, 256)
probs = predictor.probs(grey)

whole = Predictor(SoftBlobs(), InputSpec.from_dict(trained_on | {"size": [256, 256]}))
whole.probs(grey)
scaled, logits = (t[0, 0].numpy() for t in (whole.network.seen, whole.network.logits))
framed = Image.fromarray(np.rint(255 * scaled).astype(np.uint8)).convert("RGB")
draw = ImageDraw.Draw(framed)
for i, left in enumerate(window_starts(framed.width, SIDE, 0.5)):
    draw.rectangle((left, 0, left + SIDE - 1, framed.height - 1), outline=COLOURS[i], width=2)
shapes = [" x ".join(map(str, a.shape)) for a in (grey, scaled, logits, probs, probs)]
sheet = contact_sheet(
    [[grey, framed, heatmap(logits, -10, 10), heatmap(probs), overlay(grey, None, probs > 0.5)]],
    column_labels=["input", "scaled, in windows", "logits", "probabilities", "prediction"],
    captions=[shapes],
    scale=2,
    font_size=28,
)
sheet.quantize(128).save("docs/img/predictor.png", optimize=True)
