"""A page as its reader has it: elements, attributes and visible text."""

from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.inside.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script", "svg"} & set(self.inside):
            self.words.append(data)

    @property
    def visible(self) -> str:
        """The text beside the charts' own."""
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def of(self, tag: str, name: str) -> list[str]:
        """Every value that elements of one kind give an attribute."""
        return [value for element, attribute, value in self.attributes if (element, attribute) == (tag, name)]
