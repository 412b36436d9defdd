"""The kernel's socket diagnosis, asked about real connections."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from hangwatch.kernel import sockdiag
from tests.processes import until


@pytest.fixture(params=["127.0.0.1", "::1"])
def pairs(request):
    """``pairs()`` -> (client, server) of a new connection; ``pairs.port`` is the server's."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
        try:
            listener = stack.enter_context(socket.create_server((request.param, 0), family=family))
        except OSError:
            pytest.skip(f"no {request.param} here")

        def make():
            client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
            server = stack.enter_context(listener.accept()[0])
            return client, server

        make.port = listener.getsockname()[1]
        yield make


def seen(port, **options):
    with sockdiag.open_socket() as asking:
        return {found.inode: found for found in sockdiag.connections(asking, [port], **options)}


def inode(end):
    return os.fstat(end.fileno()).st_ino


def test_a_request_without_an_answer_waits(pairs):
    client, server = pairs()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert server.recv(100)
    found = seen(pairs.port)[inode(server)]
    assert found.waits and found.received == 18 and not found.unread
    assert found.local.endswith(f":{pairs.port}") and found.peer.endswith(f":{client.getsockname()[1]}")


def test_what_was_not_read_yet_is_counted(pairs):
    client, server = pairs()
    client.sendall(b"12345")
    assert until(lambda: seen(pairs.port)[inode(server)].unread) == 5


def test_an_answered_one_and_an_idle_one_do_not_wait(pairs):
    client, server = pairs()
    idle = pairs()[1]
    client.sendall(b"question")
    server.recv(100)
    # The kernel counts in ticks of up to 10 ms: an answer within one looks like it came together with the question.
    until(lambda: seen(pairs.port)[inode(server)].received_ago_ms > 20)
    server.sendall(b"answer")
    until(lambda: seen(pairs.port)[inode(server)].acked == 7 or seen(pairs.port)[inode(server)].acked == 6)
    assert not seen(pairs.port)[inode(server)].waits
    assert not seen(pairs.port)[inode(idle)].waits


def test_bytes_that_the_peer_does_not_take_are_unacked(pairs):
    client, server = pairs()
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(bytes(65536))
    assert seen(pairs.port)[inode(server)].unacked > 65536
    assert inode(server) in until(lambda: seen(pairs.port, quiet_ms=30))
    assert client.recv(1)


def test_only_the_port_that_was_asked_for_and_only_what_is_open(pairs):
    waiting, answered = pairs(), pairs()
    waiting[0].sendall(b"question")
    waiting[1].recv(100)
    assert set(seen(pairs.port)) == {inode(waiting[1]), inode(answered[1])}
    # Clients' ends have other ports.
    assert inode(waiting[0]) in {found.inode for found in all_of()}
    assert set(until(lambda: seen(pairs.port, quiet_ms=20))) == {inode(waiting[1])}
    assert seen(pairs.port, quiet_ms=10**9 // 1000) == {}


def all_of():
    with sockdiag.open_socket() as asking:
        return list(sockdiag.connections(asking))


def test_more_than_one_message_of_the_kernel(pairs):
    ends = [pairs() for _ in range(150)]
    assert set(seen(pairs.port)) == {inode(server) for _, server in ends}


@pytest.mark.parametrize("first", [1024, 40_000])
def test_many_ports_are_one_question(first):
    """Next to each other, apart, the highest there is: each end is found by the port that it has, and by no other."""
    with contextlib.ExitStack() as stack:
        ends = {}
        for port in [*range(first, first + 40), 65534, 65535]:
            with contextlib.suppress(OSError):
                listener = stack.enter_context(socket.create_server(("127.0.0.1", port)))
                stack.enter_context(socket.create_connection(listener.getsockname()))
                ends[port] = stack.enter_context(listener.accept()[0])
        assert len(ends) > 20
        for asked in (set(ends), set(sorted(ends)[::2]), set(sorted(ends)[1::3]), {min(ends)}, {max(ends)}):
            with sockdiag.open_socket() as asking:
                found = {one.local_port: one.inode for one in sockdiag.connections(asking, asked)}
            assert found == {port: inode(ends[port]) for port in asked}
        with sockdiag.open_socket() as asking:
            assert list(sockdiag.connections(asking, [])) == []


def test_the_other_end_of_a_unix_socket():
    one, other = socket.socketpair()
    with one, other, sockdiag.open_socket() as asking:
        if sockdiag.unix_peer(asking, inode(one)) is None:
            pytest.skip("no unix_diag in this kernel")
        assert sockdiag.unix_peer(asking, inode(one)) == inode(other)
        assert sockdiag.unix_peer(asking, inode(other)) == inode(one)
        with socket.socket(socket.AF_UNIX) as alone:
            assert sockdiag.unix_peer(asking, inode(alone)) is None


def test_its_own_namespace_is_no_other():
    assert sockdiag.namespace(os.getpid()) == os.stat("/proc/self/ns/net").st_ino
    assert sockdiag.namespace(2**22 + 1) == 0
    with sockdiag.open_socket(os.getpid()):
        pass
