// npm's ws as an echoing origin (`serve`) or as a visitor (`visit {"url", "ca"}`).
const assert = require('node:assert');
const { once } = require('node:events');
const fs = require('node:fs');
const { WebSocket, WebSocketServer } = require('ws');

function serve() {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  server.on('listening', () => console.log(`port ${server.address().port}`));
  server.on('connection', (socket) => {
    socket.on('message', (data, binary) => {
      const text = binary ? '' : data.toString();
      if (text.startsWith('close ')) {
        const [, code, ...reason] = text.split(' ');
        socket.close(Number(code), reason.join(' '));
      } else if (text === 'ping me') {
        socket.once('pong', () => socket.send('ponged'));
        socket.ping('from the origin');
      } else {
        socket.send(data, { binary });
      }
    });
    socket.on('close', (code, reason) => console.log(`closed ${code} ${reason}`));
  });
}

async function visit({ url, ca }) {
  const options = ca ? { ca: fs.readFileSync(ca) } : {};
  // The name is in no DNS: everything is on loopback.
  const lookup = (name, { all }, done) =>
    all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4);
  const connect = async () => {
    const socket = new WebSocket(url, { ...options, lookup });
    await once(socket, 'open');
    return socket;
  };
  const socket = await connect();
  for (const message of ['hello', 'ü'.repeat(1 << 19), Buffer.alloc(1 << 20, 7), Buffer.alloc(0)]) {
    socket.send(message);
    const [data, binary] = await once(socket, 'message');
    assert.equal(binary, typeof message !== 'string');
    assert.ok(data.equals(Buffer.from(message)), `${message.length} long comes back as it was`);
  }
  socket.ping('from the visitor');
  assert.equal((await once(socket, 'pong'))[0].toString(), 'from the visitor');
  socket.close(4003, 'node says bye');
  assert.equal((await once(socket, 'close'))[0], 4003);
  const other = await connect();
  other.send('close 4004 origin says bye');
  const [code, reason] = await once(other, 'close');
  assert.deepEqual([code, reason.toString()], [4004, 'origin says bye']);
  console.log('all well');
}

const [, , role, ask] = process.argv;
if (role === 'serve') serve();
else visit(JSON.parse(ask)).catch((error) => { console.error(error); process.exit(1); });
