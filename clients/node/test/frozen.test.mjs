// Servers that stop answering, or never answer, and keep the connection open. Needs no server.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";
import { WuliArt, WuliArtError } from "wuliart-client";

import { WatchAdaptersResponseSchema } from "../dist/gen/wuliart/v1/adapter_pb.js";
import { DEFAULT_TARGET, timeouts } from "../dist/transport.js";

for (const name of Object.keys(timeouts)) timeouts[name] /= 20;

const SNAPSHOT = toBinary(
  WatchAdaptersResponseSchema,
  create(WatchAdaptersResponseSchema, { event: { case: "snapshot", value: {} } }),
);

/** Source of a server that answers each call with one snapshot and then sends nothing. */
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

async function failureMessage(call) {
  const error = await call.then(assert.fail, (thrown) => thrown);
  assert.ok(error instanceof WuliArtError, error);
  assert.equal(error.reason, "UNAVAILABLE");
  return error.message;
}

test("calls to a frozen server fail, open streams and new calls alike", async (t) => {
  const [server, target] = await freezingServer(t);
  const client = new WuliArt(target);
  const events = client.watch();
  assert.equal((await events.next()).value.kind, "snapshot");
  // A quiet server still answers pings.
  const quiet = events.next();
  await new Promise((resolve) => setTimeout(resolve, 3 * (timeouts.silence + timeouts.answer)));
  server.kill("SIGSTOP");
  const stopped = `the server at ${target} stopped answering: nothing came for 20 s; `;
  assert.ok((await failureMessage(quiet)).startsWith(stopped));
  for (const call of [client.generateImage("a red fox"), client.watch().next()]) {
    assert.ok((await failureMessage(call)).startsWith(stopped));
  }
  server.kill("SIGCONT");
  assert.equal((await client.watch().next()).value.kind, "snapshot");
});

test("every kind of call fails if the connection is never established", async (t) => {
  const target = await muteServer(t);
  for (const tls of [false, true]) {
    const client = new WuliArt(target, { tls });
    const calls = [client.generateImage("a red fox"), client.adapters(), client.info(), client.watch().next()];
    for (const message of await Promise.all(calls.map(failureMessage))) {
      assert.match(message, tls ? /no connection within 10 s/ : /nothing came for 20 s/);
    }
  }
});

test("a unary call has a deadline", async (t) => {
  const [, target] = await freezingServer(t);
  const error = await new WuliArt(target).info().then(assert.fail, (thrown) => thrown);
  assert.equal(error.reason, "DEADLINE_EXCEEDED");
});

test("the default target is an address, since localhost has two", () => {
  assert.equal(DEFAULT_TARGET, "127.0.0.1:50051");
});
