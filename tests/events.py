"""A callback that notes which events it hears of."""

from lightning_lemonade import SearchCallback


class Events(SearchCallback):
    def __init__(self):
        self.names = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda search, *arguments: self.names.append(name)
        return super().__getattribute__(name)
