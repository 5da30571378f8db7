"""Every module of the product has a name of its own: one line of a traceback says which room it is in."""

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("flows", "tasks", "storage")


def test_no_two_modules_of_the_product_share_a_file_name() -> None:
    stems = Counter(path.stem for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.stem != "__init__")
    assert [stem for stem, count in stems.items() if count > 1] == []
