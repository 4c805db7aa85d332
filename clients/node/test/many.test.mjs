// Paged lists and snapshots in parts, from a gRPC server in this file. Needs no other server.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http2";
import { test } from "node:test";

import { connectNodeAdapter } from "@connectrpc/connect-node";
import { WuliArt } from "wuliart-client";

import { AdapterService } from "../dist/gen/wuliart/v1/adapter_pb.js";

async function serving(t, methods) {
  const routes = (router) => router.service(AdapterService, methods);
  const server = createServer(connectNodeAdapter({ routes })).listen(0, "127.0.0.1");
  const sessions = new Set();
  server.on("session", (session) => sessions.add(session));
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const session of sessions) session.destroy();
  });
  return new WuliArt(`127.0.0.1:${server.address().port}`);
}

const named = (...names) => names.map((name) => ({ name }));

test("adapters() joins the pages of a list", async (t) => {
  const pages = {
    "": { adapters: named("a", "b"), nextPageToken: "b" },
    b: { adapters: named("c"), nextPageToken: "c" },
    c: { adapters: named("d") },
  };
  const client = await serving(t, { listAdapters: ({ pageToken }) => pages[pageToken] });
  assert.deepEqual((await client.adapters()).map(({ name }) => name), ["a", "b", "c", "d"]);
});

test("a list that repeats a page is a protocol error", async (t) => {
  const client = await serving(t, { listAdapters: () => ({ nextPageToken: "again" }) });
  await assert.rejects(client.adapters(), { name: "WuliArtError", reason: "PROTOCOL" });
});

test("watch() joins the parts of each snapshot", async (t) => {
  const part = (more, ...names) => ({
    resumeToken: more ? "" : "token",
    event: { case: "snapshot", value: { adapters: named(...names), more } },
  });
  const client = await serving(t, {
    async *watchAdapters() {
      yield part(true, "a");
      yield part(true, "b");
      yield part(false, "c");
      yield { resumeToken: "later", event: { case: "added", value: { name: "d" } } };
      yield part(false, "e");
    },
  });
  const events = [];
  for await (const event of client.watch()) events.push(event);
  const received = events.map(({ kind, resumeToken, adapters, adapter }) => [
    kind,
    resumeToken,
    ...(adapters ?? [adapter]).map(({ name }) => name),
  ]);
  assert.deepEqual(received, [
    ["snapshot", "token", "a", "b", "c"],
    ["added", "later", "d"],
    ["snapshot", "token", "e"],
  ]);
});
