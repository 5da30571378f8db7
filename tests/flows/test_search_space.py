"""Which networks a search tries."""

from dataclasses import replace

import pytest

from storage.schema import ConfigError
from tasks.network.architecture import DSCConfig, macs_per_bar, preset
from tasks.strategy.candidates import SearchSpace

BASE = replace(preset("default"), block="separable")


def test_base_comes_first_and_every_network_once():
    networks = SearchSpace(kernel_sizes=(BASE.kernel_size, 9), scales=(0,)).networks(BASE)
    assert networks[0] == BASE
    assert len(set(networks)) == len(networks)


def test_one_thing_changes_at_a_time():
    space = SearchSpace(kernel_sizes=(9,), num_blocks=(), hidden_channels=(), windows=(7,), blocks=(), scales=())
    base = DSCConfig(kernel_size=3)
    assert space.networks(base) == (base, DSCConfig(kernel_size=9), DSCConfig(window=7))


@pytest.mark.parametrize("block", ["xception", "standard"])
def test_other_blocks_have_the_channels_that_cost_about_the_same(block):
    other = SearchSpace(blocks=(block,)).networks(BASE)
    (found,) = [network for network in other if network.block == block]
    assert found.hidden_channels % (8 * BASE.members) == 0
    assert 0.6 < macs_per_bar(found) / macs_per_bar(BASE) < 1.5


def test_search_without_a_seed_is_refused():
    with pytest.raises(ConfigError, match="seeds must hold at least one, had none"):
        SearchSpace(seeds=())
