"""JupyterLab: a kernel made by its REST API, and its WebSocket, through the tunnel."""

import asyncio
import json
import pathlib
import sys
import uuid

from harness import Tunnel, check, free_port, same, until
from registry import bed

TOKEN = "a-token-of-the-bed"


@bed("jupyter", "python", direct=True)
def kernel(world):
    port = free_port()
    folder = world.folder / "notebooks"
    folder.mkdir()
    # The environment is not activated: Jupyter looks for its own programs on PATH.
    path = f"{pathlib.Path(sys.executable).parent}:{world.env['PATH']}"
    env = {"PATH": path, "JUPYTER_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1"}
    words = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--port={port}"]
    words += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    program = [sys.executable, "-m", "jupyter", "lab", *words]
    server = world.spawn(program, "jupyter", env, cwd=folder)
    itself = Tunnel(f"http://127.0.0.1:{port}", None, {})
    # Its log says that it runs a moment before it does.
    until("Jupyter answers", 90, lambda: world.curl(itself, "/api").status == 200)
    tunnel = world.open(port)
    page = world.curl(tunnel, "/lab", "-H", f"Authorization: token {TOKEN}")
    same(page.status, 200, "the page")
    check(b"JupyterLab" in page.body, "the page is JupyterLab's")
    made = ask(world, tunnel, "/api/kernels", "-X", "POST", "-d", "{}")
    same(made.status, 201, "a kernel is made")
    identity = json.loads(made.body)["id"]
    asyncio.run(execute(tunnel, identity))
    gone = ask(world, tunnel, f"/api/kernels/{identity}", "-X", "DELETE")
    same(gone.status, 204, "the kernel is ended")
    if not world.direct:
        shown = world.first_client.show(tunnel.slug)
        same((shown["host"], shown["host_in_use"]), ("auto", "rewrite"), "what --host auto found")
    server.stop()


def ask(world, tunnel, path, *words):
    return world.curl(tunnel, path, "-H", f"Authorization: token {TOKEN}", *words)


async def execute(tunnel, identity):
    """Runs `1+1` as the notebook does: a message on the shell channel, its result on iopub."""
    import websockets.asyncio.client

    secure = {"ssl": tunnel.context()} if tunnel.tls else {}
    scheme = "wss" if tunnel.tls else "ws"
    path = f"/api/kernels/{identity}/channels?token={TOKEN}&session_id={uuid.uuid4().hex}"
    connecting = websockets.asyncio.client.connect(
        f"{scheme}://{tunnel.netloc}{path}",
        # As the page that the browser loaded from there would.
        origin=tunnel.url.rstrip("/"),
        host="127.0.0.1",
        port=tunnel.port,
        proxy=None,
        **secure,
    )
    header = {"msg_id": uuid.uuid4().hex, "session": uuid.uuid4().hex, "username": "bed"}
    header |= {"msg_type": "execute_request", "version": "5.4", "date": "2020-01-01T00:00:00Z"}
    content = {"code": "1+1", "silent": False, "store_history": False, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    async with asyncio.timeout(60), connecting as socket:
        await socket.send(json.dumps({**message, "channel": "shell", "buffers": []}))
        while True:
            heard = json.loads(await socket.recv())
            if heard["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            check(heard["msg_type"] != "error", f"the kernel failed: {heard['content']}")
            if heard["msg_type"] == "execute_result":
                same(heard["content"]["data"]["text/plain"], "2", "1+1")
                return
