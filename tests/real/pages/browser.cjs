// Drives Debian's Chromium for one bed: `browser.cjs {"script", "url", "home", …}`.
// Verifies certificates like any browser: the bed put its authority into the profile's store.
const { chromium } = require('playwright-core');

const QUIET = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--host-resolver-rules=MAP *.t.wormkey.test 127.0.0.1',
];

// What the harness writes to our stdin, line by line: how a bed says "the file is changed now".
const lines = [];
let wake = () => {};
require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
  lines.push(line);
  wake();
});
async function told(what) {
  while (!lines.includes(what)) await new Promise((done) => { wake = done; });
}

const say = (what, value = '') => console.log(`${what} ${JSON.stringify(value)}`);
const shows = (page, text) =>
  page.waitForFunction((t) => document.body?.innerText.includes(t), text, { timeout: 60000 });

// A development server: the page shows `before`, then, without a reload, `after`.
async function hot({ page, url, before, after, socket }) {
  const sockets = [];
  page.on('websocket', (opened) => {
    sockets.push(opened.url());
    opened.on('framereceived', () => say('frame', opened.url()));
  });
  const answer = await page.goto(url, { timeout: 90000 });
  say('status', answer.status());
  await shows(page, before);
  await page.evaluate(() => { window.__notReloaded = true; });
  const deadline = Date.now() + 30000;
  while (!sockets.some((one) => one.includes(socket))) {
    if (Date.now() > deadline) throw new Error(`no WebSocket to ${socket}: ${sockets}`);
    await page.waitForTimeout(50);
  }
  // Until the page is interactive a change may be answered by a reload, and rightly so.
  await page.waitForFunction(() => window.__hydrated ?? true, null, { timeout: 60000 });
  say('ready', sockets);
  await told('changed');
  await shows(page, after);
  say('kept', await page.evaluate(() => window.__notReloaded === true));
}

// A page over HTTP/2 opens a WebSocket: Chromium then uses that connection (RFC 8441).
async function websocket({ page, context, url }) {
  const session = await context.newCDPSession(page);
  await session.send('Network.enable');
  session.on('Network.webSocketHandshakeResponseReceived', ({ response }) =>
    say('handshake', response.status));
  await page.goto(url);
  say('protocol', await page.evaluate(() =>
    performance.getEntriesByType('navigation')[0].nextHopProtocol));
  say('echo', await page.evaluate(() => new Promise((done, fail) => {
    const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/socket`);
    const large = 'x'.repeat(1 << 20);
    const seen = [];
    socket.onerror = () => fail(new Error('the WebSocket failed'));
    socket.onopen = () => { socket.send('hello'); socket.send(large); };
    socket.onmessage = ({ data }) => {
      seen.push(data.length);
      if (seen.length === 2) socket.send('close 4002 origin says bye');
    };
    socket.onclose = ({ code, reason, wasClean }) => done({ seen, code, reason, wasClean });
  })));
}

// A page, a large body and a posted one over HTTP/3, which is forced: Chromium follows Alt-Svc to QUIC only
// where a public authority vouches for the name.
async function quic({ page, url, size }) {
  const answer = await page.goto(url);
  say('status', answer.status());
  say('seen', await page.evaluate(async (size) => {
    const large = await (await fetch(`/bytes/${size}`)).arrayBuffer();
    const posted = await (await fetch('/sum', { method: 'POST', body: large })).json();
    const used = (kind) =>
      performance.getEntriesByType(kind).map((entry) => entry.nextHopProtocol);
    return { size: large.byteLength, posted, used: [...used('navigation'), ...used('resource')] };
  }, size));
}

async function main(ask) {
  const force = `--origin-to-force-quic-on=${new URL(ask.url).host}`;
  const args = ask.script === 'quic'
    ? [...QUIET.filter((word) => word !== '--disable-quic'), force]
    : QUIET;
  const browser = await chromium.launch({
    executablePath: ask.chromium, headless: true, args,
    env: { ...process.env, HOME: ask.home },
  });
  try {
    const context = await browser.newContext();
    const page = await context.newPage();
    page.on('console', (message) => say('console', message.text()));
    page.on('pageerror', (error) => say('pageerror', String(error)));
    await { hot, websocket, quic }[ask.script]({ ...ask, context, page });
    say('done');
  } finally {
    await browser.close();
  }
}

main(JSON.parse(process.argv[2])).then(
  () => process.exit(0),
  (error) => { console.error(error); process.exit(1); },
);
