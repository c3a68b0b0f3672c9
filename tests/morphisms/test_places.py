"""Where mutations look."""

from morphisms.helpers import concat_net, plain_net

from lightning_lemonade.morphisms.places import block_ends, has_positions


def test_blocks_end_in_activations_pools_and_joins_over_images() -> None:
    assert [node.id for node in block_ends(plain_net())] == ["n3", "n6", "n7", "n10"]
    assert [node.id for node in block_ends(concat_net())] == ["n2", "n4", "n5", "n8", "n11", "n12"]


def test_vectors_have_no_positions() -> None:
    assert has_positions(plain_net(), "n10")
    assert not has_positions(plain_net(), "n11")
