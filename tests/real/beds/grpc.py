"""gRPC (grpcio): all four kinds of call, errors that come as trailers only, metadata, deadlines."""

import concurrent.futures
import threading

from harness import MIB, check, same
from registry import bed

# Bytes in, bytes out: the service needs no code generator.
BYTES = {"request_deserializer": bytes, "response_serializer": bytes}


class Service:
    """The origin; remembers what it was told and whether a call was given up."""

    def __init__(self):
        self.cancelled = threading.Event()

    def unary(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-initial", "first"),))
        context.set_trailing_metadata((("x-trailing", "last"), ("x-bin-bin", b"\x00\xff")))
        return seen.get("x-asked", "").encode() + b":" + request

    def server_stream(self, request, _context):
        yield from (b"%s %d" % (request, n) for n in range(100))

    def client_stream(self, requests, _context):
        return b"%d" % sum(len(request) for request in requests)

    def both(self, requests, _context):
        yield from (b"echo " + request for request in requests)

    def fails(self, _request, context):
        import grpc

        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 100 % falsch")

    def fails_later(self, _request, context):
        import grpc

        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "after one")

    def waits(self, _request, context):
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(30)
        return b""

    def handler(self):
        import grpc

        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary, **BYTES),
            "Server": grpc.unary_stream_rpc_method_handler(self.server_stream, **BYTES),
            "Client": grpc.stream_unary_rpc_method_handler(self.client_stream, **BYTES),
            "Both": grpc.stream_stream_rpc_method_handler(self.both, **BYTES),
            "Fails": grpc.unary_unary_rpc_method_handler(self.fails, **BYTES),
            "FailsLater": grpc.unary_stream_rpc_method_handler(self.fails_later, **BYTES),
            "Waits": grpc.unary_unary_rpc_method_handler(self.waits, **BYTES),
        }
        return grpc.method_handlers_generic_handler("wormkey.Test", kinds)


def channel_to(tunnel):
    import grpc

    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 8 * MIB)]
    address = f"127.0.0.1:{tunnel.port}"
    if not tunnel.tls:
        return grpc.insecure_channel(address, options)
    with open(tunnel.cafile, "rb") as file:
        trust = grpc.ssl_channel_credentials(file.read())
    # Dial loopback, and be for the tunnel's name in TLS and in :authority.
    options += [("grpc.ssl_target_name_override", tunnel.host)]
    options += [("grpc.default_authority", tunnel.netloc)]
    return grpc.secure_channel(address, trust, options)


@bed("grpc", "python", direct=True)
def calls(world):
    import grpc

    service = Service()
    workers = concurrent.futures.ThreadPoolExecutor(16)
    options = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.so_reuseport", 0)]
    server = grpc.server(workers, handlers=[service.handler()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    world.undo.callback(lambda: (service.cancelled.set(), server.stop(0).wait()))
    with channel_to(world.open(port)) as channel:
        unary(channel)
        streams(channel)
        errors(channel, service)


def unary(channel):
    call = channel.unary_unary("/wormkey.Test/Unary")
    answer, state = call.with_call(b"hello", metadata=(("x-asked", "yes"),), timeout=10)
    same(answer, b"yes:hello", "a unary call")
    same(dict(state.initial_metadata()).get("x-initial"), "first", "metadata before")
    trailing = dict(state.trailing_metadata())
    same((trailing.get("x-trailing"), trailing.get("x-bin-bin")), ("last", b"\x00\xff"), "behind")
    large = bytes(4 * MIB)
    same(len(call(large, timeout=20)), len(large) + 1, "a large message each way")


def streams(channel):
    seen = list(channel.unary_stream("/wormkey.Test/Server")(b"n", timeout=10))
    same(seen, [b"n %d" % n for n in range(100)], "a stream from the origin")
    parts = (bytes(n) for n in range(100))
    total = channel.stream_unary("/wormkey.Test/Client")(parts, timeout=10)
    same(total, b"4950", "a stream to the origin")
    # Each message is sent only when the answer to the one before has come.
    came = [threading.Semaphore(1)] + [threading.Semaphore(0) for _ in range(50)]

    def asks():
        for n in range(50):
            check(came[n].acquire(timeout=10), f"no answer to message {n - 1}")
            yield b"%d" % n

    answers = []
    for answer in channel.stream_stream("/wormkey.Test/Both")(asks(), timeout=20):
        answers.append(answer)
        came[len(answers)].release()
    same(answers, [b"echo %d" % n for n in range(50)], "both ways at once")


def errors(channel, service):
    import grpc

    def ends(call, status, details, what):
        try:
            call()
            check(False, f"{what}: no error came")
        except grpc.RpcError as error:
            same((error.code(), error.details()), (status, details), what)

    code = grpc.StatusCode
    fails = channel.unary_unary("/wormkey.Test/Fails")
    said = "nicht möglich: 100 % falsch"
    ends(lambda: fails(b"", timeout=10), code.FAILED_PRECONDITION, said, "trailers only")
    later = channel.unary_stream("/wormkey.Test/FailsLater")
    ends(lambda: list(later(b"", timeout=10)), code.DATA_LOSS, "after one", "an error at the end")
    none = channel.unary_unary("/wormkey.Test/None")
    ends(lambda: none(b"", timeout=10), code.UNIMPLEMENTED, "Method not found!", "no such method")
    waits = channel.unary_unary("/wormkey.Test/Waits")
    ends(lambda: waits(b"", timeout=0.5), code.DEADLINE_EXCEEDED, "Deadline Exceeded", "a deadline")
    check(service.cancelled.wait(5), "the origin learns that the call was given up")
