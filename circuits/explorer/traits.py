"""What an explorer shares with the browser: traits of a widget, or attributes that are checked and observed alike.

A page needs no widget. Without anywidget an explorer is made and saved; only in a notebook it says what to install.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any

from interp.arguments.extras import extra


class PlainTrait:
    """An attribute of a kind, which others may check and observe."""

    def __init__(self, kind: type, default: Any, item: "PlainTrait | None" = None) -> None:
        self.kind, self.default, self.item, self.name = kind, default, item, "an entry"

    def tag(self, **_: Any) -> "PlainTrait":
        """There is no browser to share it with."""
        return self

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, of: Any, _owner: type) -> Any:
        return self if of is None else of.__dict__["traits"].setdefault(self.name, copy(self.default))

    def __set__(self, of: "Plain", value: Any) -> None:
        value = self.checked(value)
        for check in of.checks(self.name):
            value = check(of, {"value": value, "trait": self})
        before, of.__dict__["traits"][self.name] = self.__get__(of, type(of)), value
        if value != before:
            for see in of.__dict__["observers"][self.name]:
                see({"name": self.name, "old": before, "new": value})

    def checked(self, value: Any) -> Any:
        """The value, lists and dictionaries as copies; ValueError where it, or what is in it, is of another kind."""
        if (self.kind, type(value)) in ((float, int), (list, tuple)):
            value = self.kind(value)
        if not issubclass(type(value), self.kind):
            raise ValueError(f"{self.name} is {value!r}; it is of the kind {self.kind.__name__}")
        if self.item is None:
            return value
        if self.kind is dict:
            return {key: self.item.checked(each) for key, each in value.items()}
        return [self.item.checked(each) for each in value]


class Plain:
    """As much of a widget as a page needs."""

    def __init__(self, **traits: Any) -> None:
        self.__dict__["traits"], self.__dict__["observers"] = {}, defaultdict(list)
        for name, value in traits.items():
            setattr(self, name, value)

    def checks(self, name: str) -> list[Callable[..., Any]]:
        """What a class says of the values of a trait."""
        own: Iterable[Any] = (method for base in type(self).__mro__ for method in vars(base).values())
        return [method for method in own if name in getattr(method, "validates", ())]

    def observe(self, see: Callable[[Mapping[str, Any]], None], names: Iterable[str]) -> None:
        """``see`` is called with every change of these."""
        for name in names:
            self.__dict__["observers"][name].append(see)

    def set_trait(self, name: str, value: Any) -> None:
        """As an assignment."""
        setattr(self, name, value)

    def on_msg(self, _answer: Callable[..., None]) -> None:
        """Nobody asks."""

    def _repr_mimebundle_(self, **_: Any) -> None:
        with extra("anywidget", "an explorer in a notebook (.save(path) writes it as a page)"):
            import anywidget  # noqa: F401


def plain_validate(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that checks values of the named traits."""

    def marked(method: Callable[..., Any]) -> Callable[..., Any]:
        method.validates = names  # type: ignore[attr-defined]
        return method

    return marked


Shared: Any
Dict: Callable[..., Any]
Float: Callable[..., Any]
List: Callable[..., Any]
Unicode: Callable[..., Any]
validate: Callable[..., Any]
WRONG: tuple[type[Exception], ...]
"""What a value raises that is not right."""
try:
    import anywidget
    import traitlets
except ImportError:
    Shared, validate, WRONG = Plain, plain_validate, (ValueError,)
    Dict = lambda value_trait=None: PlainTrait(dict, {}, value_trait)  # noqa: E731
    Float = lambda default=0.0: PlainTrait(float, default)  # noqa: E731
    List = lambda item: PlainTrait(list, [], item)  # noqa: E731
    Unicode = lambda: PlainTrait(str, "")  # noqa: E731
else:
    Shared, validate, WRONG = anywidget.AnyWidget, traitlets.validate, (ValueError, traitlets.TraitError)
    Dict, Float, List, Unicode = traitlets.Dict, traitlets.Float, traitlets.List, traitlets.Unicode
