// The events of one GenerateImage call as plain values, and the reader that makes them.

import type { Duration } from "@bufbuild/protobuf/wkt";

import { WuliArtError } from "./errors.js";
import type {
  AdapterUse as AdapterUseMessage,
  CompletedEvent,
  GenerateImageResponse,
  SkippedAdapter as SkippedAdapterMessage,
  StartedEvent,
} from "./gen/wuliart/v1/image_generation_pb.js";
import { type AdapterUse, GeneratedImage, type SkippedAdapter } from "./image.js";

/** The request waits; `position` requests are served before it. */
export interface Queued {
  kind: "queued";
  position: number;
}

/** Generation begins; everything that decides the image is fixed. */
export interface Started {
  kind: "started";
  seed: bigint;
  steps: number;
  adapters: AdapterUse[];
  /** Tokens at the prompt's end that the model does not read. */
  promptTokensIgnored: number;
  /** Empty unless the server runs with --on-bad-adapter=skip. */
  skippedAdapters: SkippedAdapter[];
}

/** One denoising step has ended; `preview` is a small JPEG if the request asked for previews. */
export interface Step {
  kind: "step";
  step: number;
  totalSteps: number;
  elapsedMs: number;
  preview?: Uint8Array;
}

/** The image is finished. */
export interface Completed {
  kind: "completed";
  image: GeneratedImage;
}

export type Event = Queued | Started | Step | Completed;

/**
 * Returns a reader for the responses of one call, in order.
 *
 * The reader returns undefined for an event that this version does not know. It remembers the
 * started event, because the completed event does not repeat it.
 */
export function imageEvents(): (response: GenerateImageResponse) => Event | undefined {
  let started: Started | undefined;
  return ({ event }) => {
    switch (event.case) {
      case "queued":
        return { kind: "queued", position: event.value.position };
      case "started":
        return (started = readStarted(event.value));
      case "step": {
        const { step, totalSteps, elapsed, preview } = event.value;
        const value: Step = { kind: "step", step, totalSteps, elapsedMs: milliseconds(elapsed) };
        return preview ? { ...value, preview: preview.image } : value;
      }
      case "completed":
        if (started) return { kind: "completed", image: readImage(event.value, started) };
        throw new WuliArtError("the server completed an image that it had not started", "PROTOCOL");
      default:
        return undefined;
    }
  };
}

function readStarted(event: StartedEvent): Started {
  const { seed, steps, promptTokensIgnored } = event;
  const adapters = event.adapters.map(readAdapterUse);
  const skippedAdapters = event.skippedAdapters.map(readSkippedAdapter);
  return { kind: "started", seed, steps, adapters, promptTokensIgnored, skippedAdapters };
}

function readSkippedAdapter({ name, reason, message }: SkippedAdapterMessage): SkippedAdapter {
  return { name, reason, message };
}

function readAdapterUse({ name, weight, contentHash }: AdapterUseMessage): AdapterUse {
  return { name, weight, contentHash };
}

function readImage(event: CompletedEvent, started: Started): GeneratedImage {
  const { image: data, mediaType, width, height, seed, timings: t } = event;
  const { steps, adapters, skippedAdapters } = started;
  const timings = {
    queued: milliseconds(t?.queued),
    textEncode: milliseconds(t?.textEncode),
    denoise: milliseconds(t?.denoise),
    decode: milliseconds(t?.decode),
    jpegEncode: milliseconds(t?.jpegEncode),
    total: milliseconds(t?.total),
  };
  return new GeneratedImage({
    data,
    mediaType,
    width,
    height,
    seed,
    steps,
    adapters,
    timings,
    skippedAdapters,
  });
}

function milliseconds(duration: Duration | undefined): number {
  return duration ? Number(duration.seconds) * 1000 + duration.nanos / 1e6 : 0;
}
