"""The check of the relative position index accepts every right way; mutants_networks.py holds the wrong ones."""

import numpy as np
import pytest
import torch

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.position_index import check_relative_position_index
from lungseg.nn.windows import relative_position_index


def test_ours_passes():
    check_relative_position_index(relative_position_index)


def test_the_published_way_and_numpy_pass():
    def published(window_size):
        side = torch.arange(window_size)
        coords = torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1)
        offsets = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window_size - 1
        return offsets[..., 0] * (2 * window_size - 1) + offsets[..., 1]

    check_relative_position_index(published)
    check_relative_position_index(lambda ws: np.asarray(published(ws)))


def test_the_answer_names_query_key_and_row():
    with pytest.raises(Wrong, match=r"query 0 is 0 rows and -1 columns from key 1, which is row 3 of the table"):
        check_relative_position_index(lambda ws: relative_position_index(ws).T)
