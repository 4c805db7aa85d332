// One picture's events as plain values. Knows the generated messages, nothing of channels.

import type { Duration } from "@bufbuild/protobuf/wkt";

import type {
  AdapterUse,
  CompletedEvent,
  GenerateImageResponse,
  SkippedAdapter,
  StartedEvent,
} from "./gen/wuliart/v1/image_generation_pb.js";

/** One exact version of a style, as used by one picture. */
export interface StyleUse {
  name: string;
  weight: number;
  /** SHA-256 of the file, 64 hexadecimal digits. */
  contentHash: string;
}

/** A style that was asked for, cannot be used, and was left out. */
export interface SkippedStyle {
  name: string;
  /** What the call would have failed with: ADAPTER_NOT_FOUND or ADAPTER_REFUSED. */
  reason: string;
  /** The same for people: what is wrong, and what to do. */
  message: string;
}

/** Milliseconds per stage; `total` from the call's arrival to the encoded picture. */
export interface Timings {
  queued: number;
  textEncode: number;
  denoise: number;
  decode: number;
  jpegEncode: number;
  total: number;
}

/** The request waits; `position` requests are served first. */
export interface Queued {
  kind: "queued";
  position: number;
}

/** Drawing begins; everything that decides the picture is fixed. */
export interface Started {
  kind: "started";
  seed: bigint;
  steps: number;
  styles: StyleUse[];
  /** Tokens at the prompt's end that the model does not read. */
  promptTokensIgnored: number;
  /** Empty unless the server was started with --on-bad-adapter=skip. */
  skippedStyles: SkippedStyle[];
}

/** One denoising step has ended; `preview` is a small JPEG if it was asked for. */
export interface Step {
  kind: "step";
  step: number;
  totalSteps: number;
  elapsedMs: number;
  preview?: Uint8Array;
}

/** The picture: a whole JPEG file of 1024x1024 pixels. */
export interface Completed {
  kind: "completed";
  image: Uint8Array;
  seed: bigint;
  timings: Timings;
}

export type Event = Queued | Started | Step | Completed;

/** The plain value of a message; undefined for an event that this version does not know. */
export function eventOf({ event }: GenerateImageResponse): Event | undefined {
  switch (event.case) {
    case "queued":
      return { kind: "queued", position: event.value.position };
    case "started":
      return started(event.value);
    case "step": {
      const { step, totalSteps, elapsed, preview } = event.value;
      const value: Step = { kind: "step", step, totalSteps, elapsedMs: milliseconds(elapsed) };
      return preview ? { ...value, preview: preview.image } : value;
    }
    case "completed":
      return completed(event.value);
    default:
      return undefined;
  }
}

function started(event: StartedEvent): Started {
  const { seed, steps, adapters, promptTokensIgnored, skippedAdapters } = event;
  const [styles, skippedStyles] = [adapters.map(styleUse), skippedAdapters.map(skippedStyle)];
  return { kind: "started", seed, steps, styles, promptTokensIgnored, skippedStyles };
}

function skippedStyle({ name, reason, message }: SkippedAdapter): SkippedStyle {
  return { name, reason, message };
}

function styleUse({ name, weight, contentHash }: AdapterUse): StyleUse {
  return { name, weight, contentHash };
}

function completed({ image, seed, timings: t }: CompletedEvent): Completed {
  const timings = {
    queued: milliseconds(t?.queued),
    textEncode: milliseconds(t?.textEncode),
    denoise: milliseconds(t?.denoise),
    decode: milliseconds(t?.decode),
    jpegEncode: milliseconds(t?.jpegEncode),
    total: milliseconds(t?.total),
  };
  return { kind: "completed", image, seed, timings };
}

function milliseconds(duration: Duration | undefined): number {
  return duration ? Number(duration.seconds) * 1000 + duration.nanos / 1e6 : 0;
}
