"""A card says everything a person needs, and cannot leave it out."""

import dataclasses

import pytest

from pretrained import Card

CARD = Card(
    summary="Fast on small networks.",
    trained_on="Forty tasks.",
    command="learned-opt train --seed {0}",
    compute="One hour on 8 cores.",
    results="| a | b |\n|---|---|\n| 1 | 2 |",
    failures="Deep networks.",
    licence="MIT",
)


def test_every_field_is_in_the_readme():
    text = CARD.markdown("small_net")
    for field in dataclasses.asdict(CARD).values():
        assert field in text
    assert text.startswith("# small_net\n\nFast on small networks.\n")
    assert 'pretrained.optimizer("small_net", ' in text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Card)])
@pytest.mark.parametrize("text", ["", " \n", None, 3])
def test_a_card_with_an_empty_field_is_refused(field, text):
    with pytest.raises(ValueError, match=f"'{field}'"):
        dataclasses.replace(CARD, **{field: text})


def test_the_summary_is_one_line():
    with pytest.raises(ValueError, match="one line"):
        dataclasses.replace(CARD, summary="Fast.\nVery.")
