"""Pages and their cursors."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.api.pages import cut


@dataclass(frozen=True)
class Item:
    id: int


def test_a_page_with_more_behind_it_has_its_last_id_as_cursor() -> None:
    assert cut([Item(4), Item(7), Item(9)], 2) == ((Item(4), Item(7)), 7)


def test_the_last_page_has_no_cursor() -> None:
    assert cut([Item(4), Item(7)], 2) == ((Item(4), Item(7)), None)
    assert cut([], 2) == ((), None)
