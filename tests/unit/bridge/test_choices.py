"""The choices of settings are explained where they are listed."""

from __future__ import annotations

from engine.bridge import settings


def test_every_choice_is_explained_and_no_other() -> None:
    told = {name: set(texts) for name, texts in settings.CHOICE_TEXT.items()}
    assert told == {row.name: set(row.choices) for row in settings.table() if row.choices}
    assert all(text for texts in settings.CHOICE_TEXT.values() for text in texts.values())
