// A server with a round trip of two seconds, and an environment that names a proxy. Needs the
// running server of WULIART_TARGET. These tests scale no timeout down.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";

import { WuliArt } from "wuliart-client";

const DELAY = 1_000;

/** Starts a relay to `target` with a latency of `delay` ms each way; returns its address. */
async function slowPath(t, target, delay) {
  const path = /^unix:(?:\/\/)?(.+)$/.exec(target)?.[1];
  const [host, port] = target.split(/:(?=\d+$)/);
  const sockets = [];
  const server = createServer((near) => {
    const far = path ? connect(path) : connect(Number(port), host);
    sockets.push(near, far);
    // Opening a connection costs a round trip, too.
    pump(near, far, delay, 3 * delay);
    pump(far, near, delay, 2 * delay);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `127.0.0.1:${server.address().port}`;
}

function pump(source, sink, delay, first) {
  let before = setTimeout(first);
  // A chain, because timers that are due together may fire in any order.
  const later = (act) => {
    const due = Date.now() + delay;
    before = before.then(() => setTimeout(Math.max(0, due - Date.now()))).then(act);
  };
  source.on("error", () => sink.destroy());
  source.on("data", (data) => later(() => sink.writable && sink.write(data)));
  source.on("end", () => later(() => sink.end()));
}

async function firstOf(events) {
  for await (const event of events) return event;
}

test("a server two seconds away answers every kind of call", async (t) => {
  const client = new WuliArt(await slowPath(t, process.env.WULIART_TARGET, DELAY));
  const [image, event, info, adapters] = await Promise.all([
    client.generateImage("a red fox", { seed: 7, steps: 1 }),
    firstOf(client.watch()),
    client.info(),
    client.adapters(),
  ]);
  assert.equal(image.seed, 7n);
  assert.equal(event.kind, "snapshot");
  assert.ok(info.model?.name);
  assert.ok(adapters.some(({ name }) => name === process.env.WULIART_ADAPTER));
});

test("the client ignores the environment's proxies", async (t) => {
  const connections = [];
  const proxy = createServer((socket) => connections.push(socket) && socket.destroy());
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  t.after(() => proxy.close());
  for (const name of ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"]) {
    process.env[name] = `http://127.0.0.1:${proxy.address().port}`;
  }
  const client = new WuliArt(await slowPath(t, process.env.WULIART_TARGET, 0));
  assert.ok((await client.info()).model?.name);
  assert.deepEqual(connections, []);
});
