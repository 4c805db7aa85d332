/**
 * A client for WuliArt Turbo.
 *
 *     import { WuliArt } from "wuliart-client";
 *
 *     const picture = await new WuliArt("127.0.0.1:50051").draw("a red fox", { onEvent: console.log });
 *     console.log(await picture.save("outputs"));
 */
export {
  type DrawOptions,
  type GenerateOptions,
  type StyleLike,
  WuliArt,
} from "./client.js";
export { type Violation, WuliArtError } from "./errors.js";
export type {
  Completed,
  Event,
  Queued,
  SkippedStyle,
  Started,
  Step,
  StyleUse,
  Timings,
} from "./events.js";
export { Picture } from "./picture.js";
export type { Style, StyleEvent } from "./styles.js";
export type { ConnectionOptions } from "./transport.js";
