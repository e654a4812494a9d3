"""N origins in one process, each on its own port: `origin INDEX PATH HOST`, a hundred times."""

import asyncio
import sys


async def main(count):
    async def serve(index, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                path = lines[0].split()[1].lstrip("/")
                fields = [line.partition(":") for line in lines[1:]]
                host = [value.strip() for name, _, value in fields if name.lower() == "host"]
                body = f"origin {index} {path} {','.join(host)}\n".encode() * 100
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def serving(index):
        return lambda reader, writer: serve(index, reader, writer)

    servers = [await asyncio.start_server(serving(n), "127.0.0.1", 0) for n in range(count)]
    print("ports", *(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
