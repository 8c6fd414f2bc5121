"""The checks of UNETR's maps accept every right way; mutants_networks.py holds the wrong ones."""

from lungseg.checks.networks.hidden_states import check_hidden_states, check_tokens_to_map
from lungseg.nn.unetr import tokens_to_map


def test_ours_passes():
    check_tokens_to_map(tokens_to_map)


def test_states_may_be_collected_first():
    def hidden_states(blocks, z, layers):
        states = [z]
        for block in blocks:
            states.append(block(states[-1]))
        return tuple(states[k] for k in layers)

    check_hidden_states(hidden_states)
