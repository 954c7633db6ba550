"""Names of live actors: one holder per namespace and name."""

from __future__ import annotations

from remora.base.suggest import nearest_name


class ActorNameTable:
    """Who has which name."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[str, bytes]] = {}

    def add(self, namespace: str, name: str, actor: bytes) -> None:
        """Give the name to the actor.

        Raises:
            ValueError: it is taken.
        """
        names = self._namespaces.setdefault(namespace, {})
        if name in names:
            raise ValueError(f"the name {name!r} is taken in namespace {namespace!r}")
        names[name] = actor

    def remove(self, namespace: str, name: str) -> None:
        """The name is free again.

        Raises:
            KeyError: nobody has it.
        """
        names = self._namespaces[namespace]
        del names[name]
        if not names:
            del self._namespaces[namespace]

    def get(self, namespace: str, name: str) -> bytes | None:
        """The actor with this name."""
        return self._namespaces.get(namespace, {}).get(name)

    def taken(self, namespace: str = "") -> list[tuple[str, str]]:
        """The ``(namespace, name)`` that are taken, of one namespace or, when it is empty, of all; sorted."""
        namespaces = [namespace] if namespace else list(self._namespaces)
        return sorted((each, name) for each in namespaces for name in self._namespaces.get(each, ()))

    def holders(self) -> dict[tuple[str, str], bytes]:
        """``(namespace, name)`` to actor."""
        return {(space, name): actor for space, names in self._namespaces.items() for name, actor in names.items()}

    def why_missing(self, namespace: str, name: str) -> str:
        """The text of the error for a name that nobody has."""
        text = f"no live actor is named {name!r} in namespace {namespace!r}"
        elsewhere = sorted(space for space, names in self._namespaces.items() if name in names)
        if elsewhere:
            return f"{text}; there is one in namespace {elsewhere[0]!r}: use get_actor({name!r}, {elsewhere[0]!r})"
        names = self._namespaces.get(namespace, {})
        nearest = nearest_name(name, names)
        if nearest:
            return f"{text}. Did you mean {nearest!r}?"
        if names:
            return f"{text}; there are {', '.join(repr(other) for other in sorted(names)[:10])}"
        return f"{text}: this namespace has no named actors"
