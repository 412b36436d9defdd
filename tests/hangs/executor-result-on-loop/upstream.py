import asyncio
import sys


async def serve(reader, writer):
    """Accepts, reads, and says nothing."""
    try:
        while await reader.read(65536):
            pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
