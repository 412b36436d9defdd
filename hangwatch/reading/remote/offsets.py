"""Where the fields of CPython's structures lie, by minor version.

From the interpreters' own DWARF (3.9 to 3.13) and headers (3.14, 3.15). Both 64-bit platforms, x86-64 and arm64, lay these
structures out alike; what differs (the C library's thread record) is found by value instead. From 3.13 on the target's
own table overrides whatever it names. Nothing here is believed before `layouts.find` has checked it against the target.
"""

from __future__ import annotations

from typing import Final

#: The same since 3.9, and in the headers of 3.15.
COMMON: Final = {
    "tp_name": 24, "tp_basicsize": 32, "tp_itemsize": 40, "tp_flags": 168, "tp_members": 240, "tp_base": 256, "tp_dict": 264,
    "tp_dictoffset": 288, "tp_mro": 344, "interpreter_next": 0, "thread_next": 8,
    "tuple_items": 24, "list_items": 24, "set_mask": 32, "set_table": 40, "dict_keys": 32, "dict_values": 40, "float_value": 16,
    "bytes_items": 32, "str_length": 16, "str_state": 32, "weakref_target": 16, "cell_contents": 16, "module_dict": 16,
    "method_function": 16, "method_self": 24, "cfunction_definition": 16, "cfunction_self": 24, "cfunction_module": 32,
    "deque_left": 24, "deque_left_index": 40, "deque_maxlen": 64, "context_vars": 24, "hamt_root": 16, "hamt_bitmap_items": 32,
    "hamt_array_items": 16, "contextvar_name": 16, "future_loop": 16, "future_callback": 24, "future_callback_context": 32,
    "future_callbacks": 40, "future_exception": 48, "lock_locked": 32, "rlock_owner": 24, "rlock_count": 32,
    "gil_holder": 8, "gil_locked": 16, "gil_switches": 24, "future_iter": 16, "wrapped_iterator": 16, "int_digits": 24, "int_size": 16, "function_globals": 16,
}  # fmt: skip

_OLD: Final = {
    "interpreters_head": 32, "threads_head": 8, "modules": 856, "thread_frame": 24, "thread_ident": 176, "thread_native": 0,
    "generator_frame": 16, "frame_back": 24, "frame_code": 32, "code_flags": 36, "code_first_line": 40, "code_bytes": 48,
    "code_varnames": 72, "code_freevars": 80, "code_cellvars": 88, "code_filename": 104, "code_name": 112, "code_lines": 120,
    "code_stacksize": 32, "frame_namespace": 56, "ascii_header": 48, "compact_header": 72,
}  # fmt: skip

_FUNCTION: Final = {"function_name": 32, "function_qualname": 40, "function_code": 48, "function_closure": 72, "function_module": 104}

_NEW: Final = {
    **_FUNCTION, "code_exceptions": 40, "code_flags": 48, "code_names": 96, "code_kinds": 104, "code_filename": 112, "code_name": 120,
    "code_qualname": 128, "code_lines": 136, "frame_instruction": 56, "frame_top": 64, "frame_locals": 72,
    "future_result": 64, "ascii_header": 40, "compact_header": 56,
}  # fmt: skip

_FROM_312: Final = {
    **_NEW, "code_first_line": 68, "code_slots": 72, "code_stacksize": 64, "generator_state": 67, "generator_frame": 72,
    "generator_qualname": 32, "frame_code": 0, "frame_back": 8, "frame_namespace": 40, "frame_owner": 70, "cached_keys": 880,
}  # fmt: skip

TABLES: Final[dict[tuple[int, int], dict[str, int]]] = {
    (3, 9): {
        **COMMON, **_OLD, "runtime_gil": 352, "frame_top": 72, "frame_lasti": 104, "frame_blocks": 112, "frame_block_stack": 120, "frame_locals": 360,
        "generator_qualname": 56, "cached_keys": 864, "function_code": 16, "function_closure": 48, "function_name": 64,
        "function_module": 88, "function_qualname": 104, "function_globals": 24, "future_result": 56, "future_state": 80,
        "task_waiter": 144, "task_coro": 152, "task_name": 160, "task_context": 168, "task_must_cancel": 176, "task_cancels": 0,
    },
    (3, 10): {
        **COMMON, **_OLD, "runtime_gil": 352, **_FUNCTION, "frame_top": 80, "frame_lasti": 96, "frame_blocks": 104, "frame_state": 108, "frame_block_stack": 112,
        "frame_locals": 352, "generator_qualname": 48, "cached_keys": 872, "future_result": 64, "future_state": 88,
        "task_waiter": 152, "task_coro": 160, "task_name": 168, "task_context": 176, "task_must_cancel": 184, "task_cancels": 0,
    },
    (3, 11): {
        **COMMON, **_NEW, "runtime_gil": 360, "interpreters_head": 40, "threads_head": 16, "modules": 888, "thread_frame": 56, "cframe_frame": 8,
        "thread_ident": 152, "thread_native": 160, "code_first_line": 72, "code_slots": 76, "code_stacksize": 68, "code_bytes": 184,
        "generator_state": 75, "generator_frame": 80, "generator_qualname": 40, "frame_code": 32, "frame_back": 48, "frame_namespace": 24, "frame_owner": 69,
        "cached_keys": 872, "future_state": 88, "task_waiter": 128, "task_coro": 136, "task_name": 144, "task_context": 152,
        "task_must_cancel": 160, "task_cancels": 168, "ascii_header": 48, "compact_header": 72,
    },
    (3, 12): {
        **COMMON, **_FROM_312, "interpreter_gil": 384, "interpreters_head": 40, "threads_head": 72, "modules": 944, "thread_frame": 56, "cframe_frame": 0,
        "thread_ident": 136, "thread_native": 144, "code_bytes": 192, "future_state": 88, "task_waiter": 128, "task_coro": 136,
        "task_name": 144, "task_context": 152, "task_must_cancel": 160, "task_cancels": 168,
    },
    (3, 13): {
        **COMMON, **_FROM_312, "code_bytes": 200, "future_state": 96, "task_waiter": 112, "task_coro": 120, "task_name": 128,
        "task_context": 136, "task_must_cancel": 100, "task_cancels": 104,
    },
    (3, 14): {
        **COMMON, **_FROM_312, "code_bytes": 208, "future_state": 104, "task_waiter": 120, "task_coro": 128, "task_name": 136,
        "task_context": 144, "task_must_cancel": 108, "task_cancels": 112, "lock_locked": 16, "rlock_owner": 24, "rlock_count": 32,
    },
    (3, 15): {
        **COMMON, **_FROM_312, "code_bytes": 208, "future_state": 104, "task_waiter": 120, "task_coro": 128, "task_name": 136,
        "task_context": 144, "task_must_cancel": 108, "task_cancels": 112, "cached_keys": 888, "lock_locked": 16, "rlock_owner": 24,
        "rlock_count": 32,
    },
}  # fmt: skip

#: Word in the target's own table -> our name for it.
CARRIED: Final = {
    "runtime_state.interpreters_head": "interpreters_head", "interpreter_state.next": "interpreter_next",
    "interpreter_state.threads_head": "threads_head", "interpreter_state.imports_modules": "modules",
    "thread_state.next": "thread_next", "thread_state.current_frame": "thread_frame", "thread_state.thread_id": "thread_ident",
    "thread_state.native_thread_id": "thread_native", "interpreter_frame.previous": "frame_back",
    "interpreter_frame.executable": "frame_code", "interpreter_frame.instr_ptr": "frame_instruction",
    "interpreter_frame.localsplus": "frame_locals", "interpreter_frame.owner": "frame_owner",
    "interpreter_frame.stackpointer": "frame_top", "code_object.filename": "code_filename", "code_object.name": "code_name",
    "code_object.qualname": "code_qualname", "code_object.linetable": "code_lines", "code_object.firstlineno": "code_first_line",
    "code_object.localsplusnames": "code_names", "code_object.localspluskinds": "code_kinds",
    "code_object.co_code_adaptive": "code_bytes", "type_object.tp_name": "tp_name", "type_object.tp_flags": "tp_flags",
    "type_object.tp_basicsize": "tp_basicsize", "type_object.tp_dictoffset": "tp_dictoffset",
    "heap_type_object.ht_cached_keys": "cached_keys", "tuple_object.ob_item": "tuple_items", "list_object.ob_item": "list_items",
    "set_object.table": "set_table", "set_object.mask": "set_mask", "dict_object.ma_keys": "dict_keys",
    "dict_object.ma_values": "dict_values", "float_object.ob_fval": "float_value", "bytes_object.ob_sval": "bytes_items",
    "long_object.lv_tag": "int_size", "long_object.ob_digit": "int_digits", "unicode_object.state": "str_state",
    "unicode_object.length": "str_length", "unicode_object.asciiobject_size": "ascii_header",
    "unicode_object.compactunicodeobject_size": "compact_header", "gen_object.gi_iframe": "generator_frame",
    "gen_object.gi_frame_state": "generator_state", "interpreter_state.ceval_gil": "interpreter_gil",
}  # fmt: skip


class Layout:
    """Offsets by name (``layout.tp_flags``), with the version they are of."""

    def __init__(self, version: tuple[int, int], table: dict[str, int]) -> None:
        self.version = version
        self.__dict__.update(table)

    def __getattr__(self, name: str) -> int:
        raise AttributeError(name)

    def change(self, name: str, offset: int) -> None:
        self.__dict__[name] = offset

    def has(self, name: str) -> bool:
        return name in self.__dict__
