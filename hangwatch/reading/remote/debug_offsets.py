"""Names of the words in ``_Py_DebugOffsets``, in their order, by minor version (CPython's ``Include/internal/pycore_debug_offsets.h``).

Since 3.13 an interpreter carries this table at the head of ``_PyRuntime`` for tools like this one. Each word is 64 bits; the
first is the cookie ``xdebugpy``. Groups are written as ``group: field field``; a field without group stands in a group of
its own name "". A new minor version needs a new list here (and tells so by its version word).
"""

from __future__ import annotations

from typing import Final

_LISTS: Final = {
    (3, 13): """
        .: cookie version free_threaded
        runtime_state: size finalizing interpreters_head
        interpreter_state: size id next threads_head gc imports_modules sysdict builtins ceval_gil gil_runtime_state
            gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
        thread_state: size prev next interp current_frame thread_id native_thread_id datastack_chunk status
        interpreter_frame: size previous executable instr_ptr localsplus owner
        code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds co_code_adaptive
        pyobject: size ob_type
        type_object: size tp_name tp_repr tp_flags
        tuple_object: size ob_item ob_size
        list_object: size ob_item ob_size
        dict_object: size ma_keys ma_values
        float_object: size ob_fval
        long_object: size lv_tag ob_digit
        bytes_object: size ob_size ob_sval
        unicode_object: size state length asciiobject_size
        gc: size collecting
    """,
    (3, 14): """
        .: cookie version free_threaded
        runtime_state: size finalizing interpreters_head
        interpreter_state: size id next threads_head threads_main gc imports_modules sysdict builtins ceval_gil gil_runtime_state
            gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder code_object_generation tlbc_generation
        thread_state: size prev next interp current_frame thread_id native_thread_id datastack_chunk status
        interpreter_frame: size previous executable instr_ptr localsplus owner stackpointer tlbc_index
        code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds co_code_adaptive
            co_tlbc
        pyobject: size ob_type
        type_object: size tp_name tp_repr tp_flags
        tuple_object: size ob_item ob_size
        list_object: size ob_item ob_size
        set_object: size used table mask
        dict_object: size ma_keys ma_values
        float_object: size ob_fval
        long_object: size lv_tag ob_digit
        bytes_object: size ob_size ob_sval
        unicode_object: size state length asciiobject_size
        gc: size collecting
        gen_object: size gi_name gi_iframe gi_frame_state
        llist_node: next prev
        debugger_support: eval_breaker remote_debugger_support remote_debugging_enabled debugger_pending_call debugger_script_path
            debugger_script_path_size
    """,
    (3, 15): """
        .: cookie version free_threaded
        runtime_state: size finalizing interpreters_head
        interpreter_state: size id next threads_head threads_main gc imports_modules sysdict builtins ceval_gil gil_runtime_state
            gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder code_object_generation tlbc_generation
        thread_state: size prev next interp current_frame base_frame last_profiled_frame last_profiled_frame_seq thread_id
            native_thread_id datastack_chunk status holds_gil gil_requested current_exception exc_state
        .: exc_value
        interpreter_frame: size previous executable instr_ptr localsplus owner stackpointer tlbc_index
        code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds co_code_adaptive
            co_tlbc
        pyobject: size ob_type
        type_object: size tp_name tp_repr tp_flags tp_basicsize tp_dictoffset
        heap_type_object: size ht_cached_keys
        tuple_object: size ob_item ob_size
        list_object: size ob_item ob_size
        set_object: size used table mask
        dict_object: size ma_keys ma_values
        float_object: size ob_fval
        long_object: size lv_tag ob_digit
        bytes_object: size ob_size ob_sval
        unicode_object: size state length asciiobject_size compactunicodeobject_size
        gc: size collecting frame generation_stats_size generation_stats
        gen_object: size gi_name gi_iframe gi_frame_state
        llist_node: next prev
        debugger_support: eval_breaker remote_debugger_support remote_debugging_enabled debugger_pending_call debugger_script_path
            debugger_script_path_size
    """,
}


def names(version: tuple[int, int]) -> list[str] | None:
    """``["cookie", "version", ..., "runtime_state.size", ...]``; None for a version whose list is not known."""
    text = _LISTS.get(version)
    if text is None:
        return None
    found: list[str] = []
    group = ""
    for word in text.split():
        if word.endswith(":"):
            group = "" if word == ".:" else word[:-1] + "."
        else:
            found.append(group + word)
    return found


#: The words of ``_AsyncioDebug`` (3.14+, Modules/_asynciomodule.c), which the _asyncio module carries.
ASYNCIO: Final = (
    "task.size", "task.name", "task.awaited_by", "task.is_task", "task.awaited_by_is_set", "task.coro", "task.node",
    "interp.size", "interp.tasks_head", "thread.size", "thread.running_loop", "thread.running_task", "thread.tasks_head",
)  # fmt: skip
