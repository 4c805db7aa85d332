// Needs a running server at WULIART_TARGET that has the adapter WULIART_ADAPTER.

import assert from "node:assert/strict";
import { mkdtemp, readFile } from "node:fs/promises";
import { createServer } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { WuliArt, WuliArtError } from "wuliart-client";

import { imageEvents } from "../dist/events.js";
import { GenerateImageResponseSchema } from "../dist/gen/wuliart/v1/image_generation_pb.js";

const client = new WuliArt();
const adapter = process.env.WULIART_ADAPTER;

test("the events of an image come in order and end in a JPEG", async () => {
  const events = [];
  for await (const event of client.generate("a red fox", { seed: 7, preview: true })) {
    events.push(event);
  }
  const kinds = events.map((event) => event.kind).filter((kind) => kind !== "queued");
  assert.deepEqual(kinds, ["started", "step", "step", "step", "step", "completed"]);
  const steps = events.filter((event) => event.kind === "step");
  assert.deepEqual(steps.map(({ step, totalSteps }) => [step, totalSteps]), [
    [1, 4],
    [2, 4],
    [3, 4],
    [4, 4],
  ]);
  for (const { preview, elapsedMs } of steps) {
    assert.deepEqual([...preview.slice(0, 2)], [0xff, 0xd8]);
    assert.ok(elapsedMs > 0);
  }
  const { data, mediaType, width, height, seed, timings } = events.at(-1).image;
  assert.deepEqual([mediaType, width, height], ["image/jpeg", 1024, 1024]);
  assert.deepEqual([...data.slice(0, 2), ...data.slice(-2)], [0xff, 0xd8, 0xff, 0xd9]);
  assert.equal(seed, 7n);
  assert.ok(timings.total > timings.denoise && timings.denoise > 0);
});

test("equal seeds generate equal images, and saving overwrites nothing", async () => {
  const seen = [];
  const options = { seed: 2n ** 64n - 1n, steps: 1, onEvent: (event) => seen.push(event.kind) };
  const first = await client.generateImage("灯塔", options);
  const second = await client.generateImage("灯塔", options);
  assert.equal(first.seed, 2n ** 64n - 1n);
  assert.equal(first.steps, 1);
  assert.deepEqual(first.data, second.data);
  assert.equal(seen.at(-1), "completed");
  const folder = join(await mkdtemp(join(tmpdir(), "wuliart-")), "new");
  const paths = [await first.save(folder), await second.save(folder)];
  assert.notEqual(paths[0], paths[1]);
  for (const path of paths) {
    assert.match(path, /\/\d{8}_\d{6}\.jpg$/);
    assert.deepEqual(new Uint8Array(await readFile(path)), first.data);
  }
});

test("a token goes with every call", async (t) => {
  const [seen, sessions] = [[], []];
  const server = createServer();
  server.on("session", (session) => sessions.push(session));
  server.on("stream", (stream, headers) => {
    seen.push(headers.authorization);
    stream.respond(
      { ":status": 200, "content-type": "application/grpc", "grpc-status": "16" },
      { endStream: true },
    );
  });
  const path = join(await mkdtemp(join(tmpdir(), "wuliart-")), "s");
  await new Promise((listening) => server.listen(path, listening));
  t.after(() => {
    server.close();
    for (const session of sessions) session.destroy();
  });
  for (const options of [{ token: "mine" }, {}]) {
    const stranger = new WuliArt(`unix:${path}`, options);
    await assert.rejects(stranger.adapters(), { reason: "UNAUTHENTICATED" });
    await assert.rejects(stranger.generateImage("a red fox"), { reason: "UNAUTHENTICATED" });
  }
  assert.deepEqual(seen, ["Bearer mine", "Bearer mine", undefined, undefined]);
});

test("an adapter is used in its exact version", async () => {
  const known = (await client.adapters()).find(({ name }) => name === adapter);
  assert.ok(["resident", "available"].includes(known.state));
  const options = { steps: 1, metadata: false };
  const adapters = [{ name: adapter, weight: 0.5 }];
  const image = await client.generateImage("a boat", { ...options, adapters });
  assert.deepEqual(image.adapters, [
    { name: adapter, weight: 0.5, contentHash: known.contentHash },
  ]);
  assert.deepEqual(image.skippedAdapters, []);
  const resident = (await client.adapters()).find(({ name }) => name === adapter);
  assert.deepEqual([resident.state, resident.pinned], ["resident", false]);
  assert.deepEqual([resident.notes, resident.thumbnailHash], [[], ""]);
  assert.equal(await client.thumbnail(adapter), undefined);
  await assert.rejects(client.thumbnail("no such"), { reason: "ADAPTER_NOT_FOUND" });
  assert.ok(resident.slot >= 0 && resident.residentSince instanceof Date);
  const again = await client.generateImage("a boat", { ...options, seed: image.seed });
  assert.notDeepEqual(image.data, again.data);
});

test("the started event lists skipped adapters", () => {
  const left = { name: "stone", reason: "ADAPTER_NOT_FOUND", message: "there is no such adapter" };
  const message = create(GenerateImageResponseSchema, {
    event: { case: "started", value: { seed: 7n, steps: 4, skippedAdapters: [left] } },
  });
  const { adapters, skippedAdapters } = imageEvents()(message);
  assert.deepEqual([adapters, skippedAdapters], [[], [left]]);
});

test("an image that was never started is a protocol error", () => {
  const message = create(GenerateImageResponseSchema, { event: { case: "completed", value: {} } });
  assert.throws(() => imageEvents()(message), { name: "WuliArtError", reason: "PROTOCOL" });
});

test("the image carries its recipe unless metadata is false", async () => {
  const carries = async (options) =>
    Buffer.from((await client.generateImage("a boat", { steps: 1, ...options })).data).includes("UNICODE");
  assert.equal(await carries({}), true);
  assert.equal(await carries({ metadata: false }), false);
});

test("watching begins with a snapshot and can be left", async () => {
  for await (const event of client.watch()) {
    assert.equal(event.kind, "snapshot");
    assert.ok(event.adapters.some(({ name }) => name === adapter));
    assert.ok(event.resumeToken);
    break;
  }
});

test("info returns limits and model", async () => {
  const { limits, model } = await client.info();
  assert.deepEqual([limits.width, limits.height, limits.jpegQuality], [1024, 1024, 95]);
  assert.ok(model.embedded);
});

async function queueIsEmpty() {
  while ((await client.info()).queueLength > 0) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("a signal cancels, with its own reason", async () => {
  const controller = new AbortController();
  const reason = new Error("the user pressed Stop");
  const events = [];
  const generating = async () => {
    for await (const event of client.generate("a boat", { signal: controller.signal })) {
      events.push(event.kind);
      if (event.kind === "step") controller.abort(reason);
    }
  };
  await assert.rejects(generating, reason);
  assert.ok(!events.includes("completed"));
  await queueIsEmpty();
  await assert.rejects(client.generateImage("a boat", { signal: AbortSignal.abort(reason) }), reason);
});

test("leaving the loop frees the server", async () => {
  for await (const event of client.generate("a boat")) {
    if (event.kind === "started") break;
  }
  await queueIsEmpty();
});

test("a bad request lists every violation", async () => {
  const error = await client.generateImage("", { steps: 9 }).catch((caught) => caught);
  assert.ok(error instanceof WuliArtError);
  assert.equal(error.reason, "INVALID_REQUEST");
  assert.deepEqual(error.violations.map(({ field }) => field).sort(), ["prompt", "steps"]);
  await assert.rejects(client.generateImage("x", { seed: 2 ** 60 }), RangeError);
});

test("an unknown adapter names the nearest", async () => {
  const error = await client.generateImage("x", { adapters: [`${adapter}x`] }).catch((caught) => caught);
  assert.equal(error.reason, "ADAPTER_NOT_FOUND");
  assert.equal(error.metadata.nearest, adapter);
});

test("an exception from onEvent is passed on and cancels", async () => {
  const mine = new Error("mine");
  const onEvent = () => {
    throw mine;
  };
  await assert.rejects(client.generateImage("a boat", { onEvent }), mine);
  await queueIsEmpty();
});

test("a deadline that passes is DEADLINE_EXCEEDED", async () => {
  const error = await client.generateImage("a boat", { timeoutMs: 1 }).catch((caught) => caught);
  assert.equal(error.reason, "DEADLINE_EXCEEDED");
});

test("an unreachable server is UNAVAILABLE", async () => {
  const error = await new WuliArt("127.0.0.1:1").generateImage("x").catch((caught) => caught);
  assert.equal(error.reason, "UNAVAILABLE");
  assert.match(error.message, /no server answers at 127.0.0.1:1/);
});
