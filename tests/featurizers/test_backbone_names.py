"""The grammar of names: what is written is what is read, and one architecture has one name."""

from __future__ import annotations

import string
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from featurizers.backbone_names import BackboneName, parse_name
from featurizers.backbones import get_backbone

WORDS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=9)
NAMES = st.builds(
    BackboneName, st.builds("{}{}".format, st.sampled_from(["", "timm:"]), WORDS), st.dictionaries(WORDS, WORDS)
)
RATES = st.integers(0, 9999).map(lambda parts: f"0.{parts:04}")
SIMPLE = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(16, 512).map(str),
        "filters": st.lists(st.integers(1, 512), min_size=1, max_size=4).map(lambda parts: "-".join(map(str, parts))),
        "dropout": RATES,
        "dense": st.integers(0, 512).map(str),
        "norm": st.sampled_from(["fixed", "image"]),
        "pool": st.sampled_from(["avg", "max", "lse"]),
        "transition": st.integers(0, 512).map(str),
    },
)


@given(NAMES)
def test_a_written_name_is_read_as_it_was(name: BackboneName) -> None:
    assert parse_name(str(name)) == name


@given(SIMPLE, st.randoms(use_true_random=False))
def test_the_order_of_options_is_no_matter_and_the_canonical_name_stays(
    options: dict[str, str], random: Random
) -> None:
    shuffled = random.sample(sorted(options), len(options))
    written = "simple_cnn:" + ",".join(f"{key}={options[key]}" for key in shuffled) if options else "simple_cnn"
    spec = get_backbone(written)
    assert get_backbone(spec.name).name == spec.name
    assert spec.name == get_backbone(str(BackboneName("simple_cnn", options))).name
    kept = parse_name(spec.name).options
    assert list(kept) == sorted(kept)
    assert set(kept) <= set(options)
    assert spec.input_size == int(options.get("size", 128))
    width = int(options.get("transition", 0)) or int(options.get("dense", 128))
    assert spec.feature_dim == (width or int(options.get("filters", "128").split("-")[-1]))
