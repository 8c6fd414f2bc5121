"""Draw docs/img/scans_pipeline_candidates.png and _froc.png: twelve phantom scans and detectors made by hand."""

import numpy as np
from scipy import ndimage

from lungseg.candidate_files import candidate_sheet
from lungseg.candidates import find_candidates
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_volume
from lungseg.evaluation.froc import draw_froc, match_candidates
from lungseg.lungs import lung_mask

SPACING = (3.0, 2.2, 2.2)

matches = {}
for patient in range(12):
    rng = np.random.default_rng(patient)
    hu, target = phantom_volume(
        rng, shape=(24, 160, 160), spacing_mm=SPACING, num_nodules=2, diameter_mm=(5, 20), kinds=("solid", "pleural")
    )
    lungs = lung_mask(hu, SPACING)
    soft = np.where(lungs, np.clip((hu + 850) / 900, 0, 1), 0).astype(np.float32)  # 0 is lung, 1 is soft tissue
    for mm in (1, 2, 4):  # brightness, blurred: vessels fade, small nodules too
        probs = ndimage.gaussian_filter(soft, [mm / side for side in SPACING])
        found = find_candidates(probs > 0.25, probs, SPACING, lungs=lungs)
        of_scan = match_candidates(found, target, id=str(patient), group=str(patient))
        matches.setdefault(f"blurred by {mm} mm", []).append(of_scan)
        if patient == 4 and mm == 2:
            sheet = candidate_sheet(found[:10], lambda z, hu=hu: hu_to_unit(hu[z]), probs > 0.25, target)
            sheet.quantize(128).save("docs/img/scans_pipeline_candidates.png", optimize=True)
draw_froc(matches).quantize(64).save("docs/img/scans_pipeline_froc.png", optimize=True)
