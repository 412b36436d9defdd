"""Sockets of real processes: peers, states, queues, and calls to one's own server."""

from __future__ import annotations

import os
import socket

from hangwatch.kernel.sockets import SocketTable, address, pipe_peers
from tests.processes import until, waiting


def test_peers_states_and_listening_ports():
    with waiting() as facts:
        table, ports, fds = SocketTable(facts["pid"]), facts["ports"], facts["fds"]
        client, listener = table.socket(fds["client"]), table.socket(fds["listener"])
        assert (client.family, client.local, client.peer, client.state) == (
            "tcp", f"127.0.0.1:{ports['client']}", f"127.0.0.1:{ports['listener']}", "established",
        )  # fmt: skip
        assert (listener.state, listener.peer) == ("listen", "")
        assert ports["listener"] in table.listening_ports()
        assert table.sockets()[fds["client"]] == client


def test_a_call_to_its_own_server_is_told_from_the_served_side():
    with waiting() as facts:
        table = SocketTable(facts["pid"])
        assert table.leads_to_itself(table.socket(facts["fds"]["client"]))
        assert not table.leads_to_itself(table.socket(facts["fds"]["server_side"]))


def test_a_call_to_another_process_is_not_one_to_itself():
    with waiting() as facts, socket.create_connection(("127.0.0.1", facts["ports"]["listener"])) as other:
        table = SocketTable(os.getpid())
        assert not table.leads_to_itself(table.socket(other.fileno()))


def test_queues_say_who_does_not_read():
    with waiting("send") as facts:
        pid, fds = facts["pid"], facts["fds"]
        until(lambda: SocketTable(pid).socket(fds["client"]).send_queue)
        until(lambda: SocketTable(pid).socket(fds["server_side"]).recv_queue)
        # Here the stuck writer: all of its peer's queue is full.
        assert SocketTable(pid).describe(fds["client"]) == f"tcp 127.0.0.1:{facts['ports']['listener']}"


def test_connections_not_accepted_are_the_listeners_queue():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        assert SocketTable(os.getpid()).socket(listener.fileno()).recv_queue == 3
        for client in clients:
            client.close()


def test_unix_sockets_show_their_path(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "app.sock"))
        listener.listen()
        assert SocketTable(os.getpid()).describe(listener.fileno()) == f"unix listening on {tmp_path / 'app.sock'}"


def test_other_descriptors_are_named():
    with open("/dev/null") as file, waiting() as facts:
        assert SocketTable(os.getpid()).describe(file.fileno()) == "/dev/null"
        assert SocketTable(facts["pid"]).describe(facts["fds"]["pipe"]) == "pipe"
        assert SocketTable(facts["pid"]).describe(99_999) == "fd 99999"


def test_the_kernels_addresses_both_families():
    # As a little-endian kernel prints them; the words of the second are ::1.
    assert address("0100007F:1538") == "127.0.0.1:5432"
    assert address("00000000000000000000000001000000:0050") == "[::1]:80"
    assert address("0000000000000000FFFF00000100007F:0050") == "127.0.0.1:80"


def test_the_other_end_of_a_pipe_is_found_among_relatives():
    reading, writing = os.pipe()
    try:
        with waiting(pass_fds=(writing,)) as facts:
            assert pipe_peers(os.getpid(), [facts["pid"]], reading) == [facts["pid"]]
    finally:
        os.close(reading)
        os.close(writing)
