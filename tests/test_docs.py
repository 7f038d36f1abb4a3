"""The generated pages say what the classes say."""

from docs import losses


def test_the_table_of_losses_is_that_of_the_classes() -> None:
    assert losses.PAGE.read_text() == losses.page(), "run `python -m docs.losses`"
