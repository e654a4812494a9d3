"""Domains of people's own: from nothing to a visit that a browser trusts, and what is never asked for."""

import dataclasses
import ssl

import origins
from authority import Authority, issued
from beds.acme import leaf, serve
from harness import DOMAIN, check, same, until
from registry import bed

APP, WIDE = "app.example.org", "*.wide.example.org"


def stands(world, tunnel, domain, state, seconds=60):
    """Waits until a domain of a tunnel stands so; what `show` says of it."""

    def probe():
        shown = world.first_client.show(tunnel.slug)["domains"]
        one = next(one for one in shown if one["domain"] == domain)
        return one if one["state"] == state else None

    return until(f"{domain} is {state}", seconds, probe, every=0.1)


def place(authority, domain):
    record = domain["record"]
    same(record["type"], "TXT", "the kind of record")
    authority.dns_change("set-txt", host=f"{record['name']}.", value=record["value"])


@bed("domains")
def domains(world):
    """An own domain and a wildcard by DNS and Pebble; one that is not proven is never asked for."""
    authority = Authority(world)
    server = serve(world, authority, proofs=["tls-alpn-01"])
    world.settings["server"]["domains"] = {
        "resolver": f"127.0.0.1:{authority.dns}",
        "recheck": "2s",
        "lost_after": "5s",
    }
    listen = {"https": f"127.0.0.1:{server.port}", "http": "off"}
    server.configure(listen=listen, tls={}, domain=DOMAIN)
    authority.start(server.port)
    server.start()
    address = ("127.0.0.1", server.port)
    with origins.plain() as origin:
        flags = ["--domain", APP, "--domain", WIDE, "--domain", "never.example.org"]
        tunnel = world.open(origin.port, *flags)
        tunnel = dataclasses.replace(tunnel, cafile=authority.issuer_file())
        first = {one["domain"]: one for one in tunnel.json["domains"]}
        same({one["state"] for one in first.values()}, {"pending"}, "states at the open")
        text = world.first_client.ctl_text("show", tunnel.slug)
        check(first[APP]["record"]["value"] in text, f"the record for people:\n{text}")
        # Visitors come before the proof, by these names and by strangers' ones.
        for name in (APP, "one.wide.example.org", "never.example.org", "stranger.example"):
            leaf(address, name)
        check(world.curl(tunnel, host=APP).code != 0, "there is no certificate for it yet")
        place(authority, first[APP])
        stands(world, tunnel, APP, "proven")
        issued(server, APP)
        answer = world.curl(tunnel, host=APP)
        same((answer.status, answer.code), (200, 0), f"curl https://{APP} {answer.stderr}")
        asked = server.process.text()
        check("never.example.org" not in asked and "stranger.example" not in asked, "no order")
        check("wide.example.org" not in asked, "none for the wildcard either")
        # A name of the wildcard gets its own when its first visitor comes.
        place(authority, first[WIDE])
        stands(world, tunnel, WIDE, "proven")
        leaf(address, "one.wide.example.org")
        issued(server, "one.wide.example.org")
        same(world.curl(tunnel, host="one.wide.example.org").status, 200, "by the wildcard")
        seen = authority.process.text()
        check("never.example.org" not in seen, "the authority never heard of it")
        check("stranger.example" not in seen, "nor of a stranger's")
        # What is there stays over a restart, and nothing is asked for again.
        orders = server.process.text().count("asking for a certificate")
        shown = leaf(address, APP)
        server.process.stop()
        server.start()
        until("the tunnel is back", 30, lambda: world.curl(tunnel, host=APP).status == 200)
        same(leaf(address, APP), shown, "the same certificate")
        # A name under the wildcard is served from the disk again when it is asked for.
        until(
            "the wildcard's, too",
            30,
            lambda: world.curl(tunnel, host="one.wide.example.org").code == 0,
        )
        same(server.process.text().count("asking for a certificate"), orders, "orders")
        # The record goes: for a while nothing happens, then the domain leads nowhere.
        authority.dns_change("clear-txt", host=f"{first[APP]['record']['name']}.")
        lost = stands(world, tunnel, APP, "lost")
        world.say(f"lost: {lost['why']}")
        check(leaf(address, APP) != shown, "its certificate is not served any more")
        same(world.curl(tunnel, "/", "-k", host=APP).status, 404, "no tunnel answers it")
        same(world.curl(tunnel, host="one.wide.example.org").status, 200, "the other goes on")
        place(authority, first[APP])
        stands(world, tunnel, APP, "proven")
        until("and it leads there again", 30, lambda: world.curl(tunnel, host=APP).status == 200)
        world.first_client.ctl("set", tunnel.slug, "--remove-domain", APP)
        same(world.curl(tunnel, "/", "-k", host=APP).status, 404, "given up")
        try:
            leaf(address, APP, authority.issuer_file())
        except ssl.SSLError:
            return
        check(False, "its certificate is served after it was given up")
