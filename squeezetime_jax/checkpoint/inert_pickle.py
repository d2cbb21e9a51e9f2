"""Reads a pickle as data: nothing it names is imported, nothing it asks for is called.

`pickle.Unpickler` is not suitable: it allocates whatever sizes the pickle declares, and builds what
the pickle says. Here the standard library's `pickletools.genops` splits the bytes (an argument is
never longer than the bytes present) and a small stack machine builds `dict`, `list`, `tuple`,
numbers, text, and `Inert` for everything else.

Every action costs no more than the values it takes off the stack, no value is ever traversed,
hashed or compared in depth, and the number of opcodes is bounded; so time and memory are, too.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_OPCODES = 1_000_000
_MAX_TEXT = 4096
_MAX_KEY = 1024
_MAX_MEMO_INDEX = 2**32


class PickleError(ValueError):
    """The bytes are not a pickle that this machine can follow."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name the pickle would have imported.

    Attributes:
      name: the dotted name, `module.attribute`.
    """

    name: str


class Buildable:
    """A stand-in that a call gave and that takes a state afterwards, as an object would."""

    def set_state(self, state: Any) -> None:
        """Take the state."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Inert:
    """A value that is not built: a call's result, an object, a set, long bytes.

    Attributes:
      what: words for an error message.
    """

    what: str


def loads(
    data: bytes,
    functions: Mapping[str, Callable[[tuple[Any, ...]], Any]],
    persistent: Callable[[Any], Any],
    *,
    keep_bytes: bool = False,
    max_opcodes: int = MAX_OPCODES,
) -> Any:
    """Read one pickle.

    Args:
      data: the pickle, any protocol.
      functions: by dotted name, what stands in for a call (`REDUCE`) of it; it gets the
        arguments as a tuple. Any other call gives an `Inert`.
      persistent: what stands in for a persistent id.
      keep_bytes: whether bytes, and text of any length, are kept; else they become `Inert`.
      max_opcodes: steps to take at most.

    Returns:
      The value at the top of the stack at the end.

    Raises:
      PickleError: the bytes are damaged, or ask for more than `max_opcodes` steps.
    """
    machine = _Machine(functions, persistent, keep_bytes)
    opcodes = pickletools.genops(data)
    for _ in range(max_opcodes):
        try:
            opcode, argument, position = next(opcodes)
        except MemoryError:
            raise
        except Exception as error:  # whatever the standard library finds wrong with the bytes
            raise PickleError(f"not a whole pickle ({_one_line(error)})") from None
        try:
            if opcode.name == "STOP":
                return machine.pop()
            _ACTIONS[opcode.name](machine, argument)
        except (IndexError, KeyError):
            raise PickleError(
                f"opcode {opcode.name} at byte {position} has nothing to work on"
            ) from None
    raise PickleError(f"more than {max_opcodes:,} opcodes")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _plain(value: Any) -> Any:
    """The value itself where it is small, else a placeholder: nothing costly is kept or hashed."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else Inert("a long integer")
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else Inert("a long text")
    return Inert(f"{type(value).__name__}")


def _key(key: Any) -> str | int:
    """A dictionary's key: short text or an integer; any other becomes text, so no entry is lost."""
    if isinstance(key, int) or (isinstance(key, str) and len(key) <= _MAX_KEY):
        return key
    return f"<a key that is {key.what if isinstance(key, Inert) else 'a ' + type(key).__name__}>"


class _Machine:
    """The pickle machine's stack, marks and memo, with one method an action.

    `pop` and `pop_to_mark` raise IndexError where the pickle takes more than it has put.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[tuple[Any, ...]], Any]],
        persistent: Callable[[Any], Any],
        keep_bytes: bool,
    ) -> None:
        self._functions = functions
        self._keep_bytes = keep_bytes
        self._persistent = persistent
        self._stack: list[Any] = []
        self._below_marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_value(self, value: Any) -> None:
        keeps = self._keep_bytes and isinstance(value, bytes | bytearray | str)
        self.push(value if keeps else _plain(value))

    def pop(self) -> Any:
        return self._stack.pop()

    def mark(self) -> None:
        self._below_marks.append(self._stack)
        self._stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below_marks.pop()
        return items

    def drop_to_mark(self) -> None:
        self.pop_to_mark()

    def frozen_set(self) -> None:
        self.pop_to_mark()
        self.push(Inert("a set"))

    def pop_item(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_to_mark()

    def duplicate(self) -> None:
        self.push(self._stack[-1])

    def memoise(self, index: int | None) -> None:
        index = len(self._memo) if index is None else index
        if not 0 <= index < _MAX_MEMO_INDEX:
            raise PickleError("a memo index is out of range")
        self._memo[index] = self._stack[-1]

    def recall(self, index: int) -> None:
        if not 0 <= index < _MAX_MEMO_INDEX:
            raise PickleError("a memo index is out of range")
        self.push(self._memo[index])

    def push_tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError
        items = tuple(self._stack[-length:])
        del self._stack[-length:]
        self.push(items)

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            if len(items) % 2:
                raise PickleError("a dictionary has a key without a value")
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        elif not isinstance(target, Inert):
            raise PickleError("an item is set on what is not a dictionary")

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise PickleError("an item is appended to what is not a list")

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("a global has no name")
        self.push(Global(f"{module}.{name}"))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        stand_in = self._functions.get(function.name) if isinstance(function, Global) else None
        if stand_in is not None and isinstance(arguments, tuple):
            self.push(stand_in(arguments))
        else:
            self.push(Inert(_made_by(function)))

    def new_object(self, operands: int) -> None:
        cls = self._stack[-operands]
        del self._stack[-operands:]
        self.push(Inert(_made_by(cls)))

    def object_from_mark(self) -> None:
        items = self.pop_to_mark()
        self.push(Inert(_made_by(items[0])))

    def instance(self, name: str) -> None:
        self.pop_to_mark()
        self.push(Inert(_made_by(_global(name))))

    def build(self) -> None:
        state = self.pop()
        target = self._stack[-1]
        if isinstance(target, Buildable):
            target.set_state(state)

    def persistent_id(self, identity: Any) -> None:
        self.push(self._persistent(identity))


def _global(pair: str) -> Global:
    return Global(pair.replace(" ", ".", 1)[:_MAX_KEY])


def _made_by(maker: Any) -> str:
    return f"an object of {maker.name}" if isinstance(maker, Global) else "an object"


_Action = Callable[[_Machine, Any], None]


def _nothing(machine: _Machine, argument: Any) -> None:
    del machine, argument


def _actions() -> dict[str, _Action]:
    actions: dict[str, _Action] = {
        "NONE": lambda m, _: m.push(None),
        "NEWTRUE": lambda m, _: m.push(True),
        "NEWFALSE": lambda m, _: m.push(False),
        "MARK": lambda m, _: m.mark(),
        "POP": lambda m, _: m.pop_item(),
        "POP_MARK": lambda m, _: m.drop_to_mark(),
        "DUP": lambda m, _: m.duplicate(),
        "EMPTY_TUPLE": lambda m, _: m.push(()),
        "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
        "TUPLE1": lambda m, _: m.push_tuple(1),
        "TUPLE2": lambda m, _: m.push_tuple(2),
        "TUPLE3": lambda m, _: m.push_tuple(3),
        "EMPTY_LIST": lambda m, _: m.push([]),
        "LIST": lambda m, _: m.push(m.pop_to_mark()),
        "APPEND": lambda m, _: m.append([m.pop()]),
        "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
        "EMPTY_DICT": lambda m, _: m.push({}),
        "DICT": lambda m, _: m.push_dict(m.pop_to_mark()),
        "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
        "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
        "EMPTY_SET": lambda m, _: m.push(Inert("a set")),
        "ADDITEMS": lambda m, _: m.append(m.pop_to_mark()),
        "FROZENSET": lambda m, _: m.frozen_set(),
        "GLOBAL": lambda m, pair: m.push(_global(pair)),
        "STACK_GLOBAL": lambda m, _: m.stack_global(),
        "REDUCE": lambda m, _: m.reduce(),
        "BUILD": lambda m, _: m.build(),
        "INST": lambda m, name: m.instance(name),
        "OBJ": lambda m, _: m.object_from_mark(),
        "NEWOBJ": lambda m, _: m.new_object(2),
        "NEWOBJ_EX": lambda m, _: m.new_object(3),
        "PERSID": lambda m, identity: m.persistent_id(identity),
        "BINPERSID": lambda m, _: m.persistent_id(m.pop()),
        "MEMOIZE": lambda m, _: m.memoise(None),
        "NEXT_BUFFER": lambda m, _: m.push(Inert("a buffer")),
    }
    actions |= dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), _nothing)
    actions |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.memoise(index))
    actions |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.recall(index))
    actions |= dict.fromkeys(
        ("EXT1", "EXT2", "EXT4"), lambda m, code: m.push(Global(f"extension {code}"))
    )
    values = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT"
    values += " STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
    values += " BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
    return actions | dict.fromkeys(values.split(), lambda m, value: m.push_value(value))


_ACTIONS = _actions()
