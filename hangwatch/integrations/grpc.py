"""grpc.aio: calls that wait for their server. The channel and its deadline are Cython's own and are not read."""

from __future__ import annotations

from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.records import Primitive

NAME = "grpc"
DISTRIBUTION = "grpcio"
TESTED = ">=1.50,<2"

_FILE = "/grpc/aio/_call.py"


def _call(look: Look) -> Sighting | None:
    call = look.frame.local("self")
    if call is None or look.index != len(look.chain) - 1:
        return None
    return Sighting(Primitive(look.desk.id_of("peer", call), "peer", "a gRPC server", NAME), look.frame.name.lstrip("_"))


WAITS = tuple(
    Spot(_FILE, function, _call, target=f"grpc.aio._call:{cls}.{function}")
    for cls, function in (
        ("UnaryUnaryCall", "_invoke"),
        ("StreamUnaryCall", "_conduct_rpc"),
        ("_StreamResponseMixin", "_read"),
        ("_StreamRequestMixin", "_write"),
        ("UnaryStreamCall", "_send_unary_request"),
        ("StreamStreamCall", "_prepare_rpc"),
    )
)
