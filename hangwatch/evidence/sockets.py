"""The sockets of the process with their peers and what waits in their queues, from /proc.

``data``: {"sockets": [{"fd", "family", "local", "peer", "state", "recv_queue", "send_queue", "own_server": bool}], "waiting":
[{"tid", "thread", "call", "fds", "timeout_ns"}] (the threads that sit in a system call on a descriptor), "listening": [ports],
"pipes": [{"fd", "mode": "read"|"write"|None, "pids": relatives that have it open}], "dropped": descriptors beyond the limit}.

``recv_queue`` > 0 on an established connection: bytes are here and nobody reads them; ``send_queue`` > 0: the peer does not take
what we wrote; on a listening socket ``recv_queue`` counts connections that wait to be accepted. ``own_server``: the other end is
a port that this very process serves.
"""

from __future__ import annotations

import os
from typing import Any

from hangwatch.evidence.base import Target
from hangwatch.kernel import procfs, sockets
from hangwatch.kernel.ptrace import refusal
from hangwatch.records import Evidence

NAME = "sockets"

# What an incident stores; a service with more connections than this is not understood by reading all of them.
_MAX_SOCKETS = 500
_MAX_PIPES = 32


def capture(target: Target) -> Evidence:
    table = procfs.SocketTable(target.pid)
    descriptors = table.descriptors()
    if not descriptors:
        why = refusal(target.pid)
        return Evidence(NAME, error=why.message if why else "it has no open descriptors", hint=why.help_text if why else None)
    found = sorted(table.sockets().items(), key=lambda item: (-_queued(item[1]), item[0]))
    data: dict[str, Any] = {
        "sockets": [_socket(table, fd, socket) for fd, socket in found[:_MAX_SOCKETS]],
        "waiting": _waiting(target.pid, table),
        "listening": sorted(table.listening_ports()),
        "pipes": _pipes(target.pid, descriptors),
        "dropped": table.dropped + max(0, len(found) - _MAX_SOCKETS),
    }
    return Evidence(NAME, text=render(data), data=data)


def render(data: dict[str, Any]) -> str:
    """One line for each waiting thread and each socket."""
    lines = [f"thread {item['tid']} ({item['thread']}): {item['call']}" for item in data["waiting"]]
    for item in data["sockets"]:
        where = f"{item['local']} -> {item['peer']}" if item["peer"] else item["local"] or "(unnamed)"
        queues = "".join(f" {word} {item[key]}" for key, word in (("recv_queue", "unread"), ("send_queue", "unsent")) if item[key])
        lines.append(
            f"fd {item['fd']:>4} {item['family']} {where} {item['state']}{queues}{' (its own server)' if item['own_server'] else ''}"
        )
    if data["dropped"]:
        lines.append(f"and {data['dropped']} more, not shown")
    return "\n".join(lines)


def _queued(socket: procfs.Socket) -> int:
    return (socket.recv_queue or 0) + (socket.send_queue or 0)


def _socket(table: procfs.SocketTable, fd: int, socket: procfs.Socket) -> dict[str, Any]:
    return {
        "fd": fd,
        "family": socket.family,
        "local": socket.local,
        "peer": socket.peer,
        "state": socket.state,
        "recv_queue": socket.recv_queue,
        "send_queue": socket.send_queue,
        "own_server": table.leads_to_itself(socket),
    }


def _waiting(pid: int, table: procfs.SocketTable) -> list[dict[str, Any]]:
    found = []
    for tid in procfs.thread_ids(pid):
        call = procfs.system_call(pid, tid, table)
        if call is not None and call.fds:
            stat = procfs.thread_stat(pid, tid)
            entry = {
                "tid": tid,
                "thread": stat.name if stat else "",
                "call": str(call),
                "fds": list(call.fds),
                "timeout_ns": call.timeout_ns,
            }
            found.append(entry)
    return found


def _pipes(pid: int, descriptors: dict[int, str]) -> list[dict[str, Any]]:
    fds = [fd for fd, link in descriptors.items() if link.startswith("pipe:")][:_MAX_PIPES]
    if not fds:
        return []
    parent = procfs.parent(pid)
    relatives = procfs.children(pid) + ([parent] if parent else [])
    words = {os.O_RDONLY: "read", os.O_WRONLY: "write"}
    return [
        {
            "fd": fd,
            "mode": words.get(mode) if (mode := sockets.access_mode(pid, fd)) is not None else None,
            "pids": sockets.pipe_peers(pid, relatives, fd),
        }
        for fd in fds
    ]
