import asyncio
import sys

import grpc


class Prices(grpc.GenericRpcHandler):
    """A price server whose own database is gone: it accepts every call and answers none."""

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.quote)

    async def quote(self, request, context):
        await asyncio.Event().wait()


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Prices()])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
