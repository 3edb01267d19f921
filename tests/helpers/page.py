"""A page of HTML, read."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Its text, and everything that could make a browser ask for something."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.references = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = ('src', 'href', 'srcset', 'action', 'data', 'poster', 'background')
        self.references += [value for name, value in attrs if name in names]

    def handle_data(self, data):
        self.text.append(data)
