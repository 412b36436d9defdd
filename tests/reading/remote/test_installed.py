"""Versions of what a process has imported: what no folder tells, its module may state; what comes with Python is not asked."""

from __future__ import annotations

from hangwatch.reading.remote.installed import versions


class Text:
    def __init__(self, value):
        self._value = value

    def value(self):
        return self._value


class Module:
    def __init__(self, **attributes):
        self._attributes = attributes

    def attr(self, name):
        return Text(self._attributes[name]) if name in self._attributes else None


class Process:
    """A core file: there are no folders to look at."""

    pid, source = 1, "core"

    def __init__(self, modules):
        self.modules, self.asked = modules, set()

    def module(self, name):
        self.asked.add(name)
        return self.modules.get(name)


def test_a_module_of_python_is_not_asked_for_a_version_of_its_own():
    process = Process({
        "re": Module(__version__="2.2.1"),
        "shop_api": Module(__version__="4.1"),
        "odd": Module(__version__="unknown"),
        "plain": Module(),
    })  # fmt: skip
    assert versions(process, [*process.modules, "shop_api.orders"]) == {"shop-api": "4.1"}
    assert process.asked == {"shop_api", "odd", "plain"}
