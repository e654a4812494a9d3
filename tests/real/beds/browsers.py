"""Development servers and WebSockets in headless Chromium: Vite, Next.js, RFC 8441."""

import asyncio
import contextlib
import os
import shutil
import tempfile

import cache
from browser import Browser
from harness import check, free_port, same
from registry import bed


@contextlib.contextmanager
def project(files):
    """A folder beside `node_modules`, where Node and the bundlers look for them."""
    node, folder = cache.node()
    place = tempfile.mkdtemp(prefix="app-", dir=folder)
    try:
        for name, text in files.items():
            path = os.path.join(place, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        yield node, folder / "node_modules", place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def edit(place, name, text):
    """As editors save: whole or not at all."""
    with open(os.path.join(place, f"{name}.new"), "w") as file:
        file.write(text)
    os.replace(os.path.join(place, f"{name}.new"), os.path.join(place, name))


def hot_reload(world, tunnel, socket, change):
    """A change of a file is seen in the page, which is not loaded again for it."""
    browser = Browser(world, "hot", tunnel, before="one", after="two", socket=socket)
    same(browser.saw("status"), 200, "the page's status")
    browser.saw("ready")
    change()
    browser.tell("changed")
    same(browser.saw("kept"), True, "the page was not loaded again")
    check(any(socket in url for url in browser.all("frame")), "the change came by WebSocket")
    browser.done()


def host_in_use(world, tunnel, expected):
    if not world.direct:
        shown = world.first_client.show(tunnel.slug)
        same((shown["host"], shown["host_in_use"]), ("auto", expected), "what --host auto found")


VITE = {
    "index.html": '<body><p id="p"></p><script type="module" src="/main.js"></script></body>',
    "main.js": """import { word } from './word.js';
const show = (text) => { document.getElementById('p').textContent = text; };
show(word);
import.meta.hot.accept('./word.js', (changed) => show(changed.word));
""",
    "word.js": "export const word = 'one';\n",
}


@bed("vite", "python", direct=True)
def vite(world):
    with project(VITE) as (node, modules, place):
        program = [node, modules / "vite/bin/vite.js", "--port", free_port(), "--strictPort"]
        server = world.spawn(program, "vite", {"NO_COLOR": "1"}, cwd=place)
        port = int(server.line(r"Local:\s+http://localhost:(\d+)/")[1])
        tunnel = world.open(port)
        if world.direct:
            # It listens on one family of localhost only.
            tunnel.url = f"http://localhost:{port}"
        word = "export const word = 'two';\n"
        hot_reload(world, tunnel, "token=", lambda: edit(place, "word.js", word))
        host_in_use(world, tunnel, "rewrite")
        if not world.direct:
            kept = world.open(port, "--host", "keep")
            same(world.curl(kept).status, 403, "what Vite says to a foreign Host")


NEXT_PAGE = """'use client';
import {{ useEffect }} from 'react';
export default function Page() {{
  useEffect(() => {{ window.__hydrated = true; }}, []);
  return <p>{word}</p>;
}}
"""
NEXT = {
    "package.json": '{"private": true}',
    "app/layout.js": """export default function Layout({ children }) {
  return (
    <html>
      <head><script dangerouslySetInnerHTML={{ __html: 'window.__hydrated = false' }} /></head>
      <body>{children}</body>
    </html>
  );
}
""",
    "app/page.js": NEXT_PAGE.format(word="one"),
}


@bed("next", "python", direct=True)
def next_dev(world):
    with project(NEXT) as (node, modules, place):
        port = free_port()
        program = [node, modules / "next/dist/bin/next", "dev", "-p", port, "-H", "127.0.0.1"]
        env = {"NEXT_TELEMETRY_DISABLED": "1", "NO_COLOR": "1", "CI": "1"}
        server = world.spawn(program, "next", env, cwd=place)
        server.line(r"Ready in", 60)
        tunnel = world.open(port)
        text = NEXT_PAGE.format(word="two")
        change = lambda: edit(place, "app/page.js", text)  # noqa: E731
        hot_reload(world, tunnel, "/_next/", change)
        server.stop()


PAGE = b"<!doctype html><title>page</title><p>page</p>"


@bed("chromium-websocket", "python", direct=True)
def over_http2(world):
    """A page's WebSocket, on the HTTP/2 connection that the page came by."""
    from beds.websocket import echo_server

    async def play():
        async with asyncio.timeout(60), echo_server(page=PAGE) as (port, ends):
            tunnel = await asyncio.to_thread(world.open, port)
            await asyncio.to_thread(watch, tunnel)
            same((await ends.get())[0], (4002, "origin says bye"), "how it ended at the origin")

    def watch(tunnel):
        browser = Browser(world, "websocket", tunnel)
        over = ("http/1.1", 101) if world.direct else ("h2", 200)
        same(browser.saw("protocol"), over[0], "the page's protocol")
        expected = {"seen": [5, 1 << 20], "code": 4002, "reason": "origin says bye"}
        same(browser.saw("echo"), {**expected, "wasClean": True}, "what the page saw")
        same(browser.saw("handshake"), over[1], "the handshake's status")
        browser.done()

    asyncio.run(play())
