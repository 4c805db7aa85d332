/**
 * A client for WuliArt Turbo.
 *
 *     import { WuliArt } from "wuliart-client";
 *
 *     const client = new WuliArt("127.0.0.1:50051");
 *     const image = await client.generateImage("a red fox", { onEvent: console.log });
 *     console.log(await image.save("outputs"));
 */
export type { Adapter, AdapterEvent } from "./adapters.js";
export {
  type AdapterLike,
  type GenerateImageOptions,
  type GenerateOptions,
  WuliArt,
} from "./client.js";
export { type Violation, WuliArtError } from "./errors.js";
export type { Completed, Event, Queued, Started, Step } from "./events.js";
export { type AdapterUse, GeneratedImage, type SkippedAdapter, type Timings } from "./image.js";
export type { ConnectionOptions } from "./transport.js";
