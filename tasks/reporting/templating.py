"""How every page is made from its templates: escaped, without what steers a reader's screen, its scripts by name."""

import base64
import hashlib
import re

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


def template_environment() -> Environment:
    """Return the templates of this room: whatever they are given is escaped, and a name that is missing is an error."""
    return Environment(
        loader=PackageLoader("tasks.reporting"),
        autoescape=select_autoescape(("html",)),
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def own_file(environment: Environment, name: str) -> Markup:
    """Return a style sheet or a script of this room, to be put into a page as it is."""
    return Markup(environment.get_template(name).render())  # noqa: S704 - a file of ours


def printable(value: object) -> str:
    """Return a template's value without control characters and changes of writing direction; markup as it is."""
    return value if isinstance(value, Markup) else _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def script_hash(source: bytes) -> str:
    """Return a script's name in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source).digest()).decode()}"
