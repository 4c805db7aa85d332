// Servers that stop answering, or never do, without closing the connection. Needs no server.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";
import { WuliArt, WuliArtError } from "wuliart-client";

import { WatchAdaptersResponseSchema } from "../dist/gen/wuliart/v1/adapter_pb.js";
import { DEFAULT_TARGET, patience } from "../dist/transport.js";

for (const name of Object.keys(patience)) patience[name] /= 20;

const SNAPSHOT = toBinary(
  WatchAdaptersResponseSchema,
  create(WatchAdaptersResponseSchema, { event: { case: "snapshot", value: {} } }),
);

/** Answers each call with a snapshot and is quiet then. */
const SERVER = `
const frame = Buffer.from(process.argv[1], "base64");
const length = Buffer.alloc(5);
length.writeUInt32BE(frame.length, 1);
const server = require("node:http2").createServer();
server.on("stream", (stream) => {
  stream.on("error", () => {});
  stream.respond({ ":status": 200, "content-type": "application/grpc" });
  stream.write(Buffer.concat([length, frame]));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
`;

async function freezingServer(t) {
  const server = spawn(process.execPath, ["-e", SERVER, Buffer.from(SNAPSHOT).toString("base64")]);
  t.after(() => server.kill("SIGKILL"));
  const [port] = await once(server.stdout, "data");
  return [server, `127.0.0.1:${String(port).trim()}`];
}

async function muteServer(t) {
  const sockets = [];
  const server = createServer((socket) => sockets.push(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `127.0.0.1:${server.address().port}`;
}

async function told(call) {
  const error = await call.then(assert.fail, (thrown) => thrown);
  assert.ok(error instanceof WuliArtError, error);
  assert.equal(error.reason, "UNAVAILABLE");
  return error.message;
}

test("a server that freezes ends its streams, and calls made at once too", async (t) => {
  const [server, target] = await freezingServer(t);
  const client = new WuliArt(target);
  const events = client.watch();
  assert.equal((await events.next()).value.kind, "snapshot");
  // Quiet is not frozen: it answers pings.
  const quiet = events.next();
  await new Promise((resolve) => setTimeout(resolve, 3 * (patience.silence + patience.answer)));
  server.kill("SIGSTOP");
  const stopped = `the server at ${target} stopped answering: nothing came for 20 s; `;
  assert.ok((await told(quiet)).startsWith(stopped));
  for (const call of [client.draw("a red fox"), client.watch().next()]) {
    assert.ok((await told(call)).startsWith(stopped));
  }
  server.kill("SIGCONT");
  assert.equal((await client.watch().next()).value.kind, "snapshot");
});

test("a connection that never comes about ends every kind of call", async (t) => {
  const target = await muteServer(t);
  for (const tls of [false, true]) {
    const client = new WuliArt(target, { tls });
    const calls = [client.draw("a red fox"), client.styles(), client.info(), client.watch().next()];
    for (const message of await Promise.all(calls.map(told))) {
      assert.match(message, tls ? /no connection within 10 s/ : /nothing came for 20 s/);
    }
  }
});

test("a call that only reads does not wait for ever", async (t) => {
  const [, target] = await freezingServer(t);
  const error = await new WuliArt(target).info().then(assert.fail, (thrown) => thrown);
  assert.equal(error.reason, "DEADLINE_EXCEEDED");
});

test("the default target is an address, since localhost has two", () => {
  assert.equal(DEFAULT_TARGET, "127.0.0.1:50051");
});
