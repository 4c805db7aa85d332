// The client: requests out, plain values back. Owns the end of calls.

import { type Client, createClient } from "@connectrpc/connect";

import { translated, WuliArtError } from "./errors.js";
import { type Event, eventOf, type Started } from "./events.js";
import { AdapterService } from "./gen/wuliart/v1/adapter_pb.js";
import {
  type GetServerInfoResponse,
  ImageGenerationService,
} from "./gen/wuliart/v1/image_generation_pb.js";
import { Picture } from "./picture.js";
import { type Style, type StyleEvent, styleEvents, styleOf } from "./styles.js";
import { type ConnectionOptions, DEFAULT_TARGET, patience, transportTo } from "./transport.js";

/** A style by its name, or with a strength from -2 to 2. */
export type StyleLike = string | { name: string; weight?: number };

export interface GenerateOptions {
  /** The noise the picture starts from, 0 to 2**64 - 1; the server picks one if it is absent. */
  seed?: bigint | number;
  /** Denoising steps; what the model was made for if it is absent (of four: 3 preview, 2 draft). */
  steps?: number;
  /** Up to 4. */
  styles?: readonly StyleLike[];
  /** Whether each step carries a small JPEG. */
  preview?: boolean;
  /** Whether the picture carries its recipe in its EXIF; true unless said. */
  metadata?: boolean;
  /** Cancels the work before its next step. */
  signal?: AbortSignal;
  /** Gives up after so many milliseconds. */
  timeoutMs?: number;
}

export interface DrawOptions extends GenerateOptions {
  /** Called with every event; what it throws cancels the call and is passed on. */
  onEvent?: (event: Event) => void;
}

/**
 * Draws pictures with a WuliArt Turbo server.
 *
 * Nothing is connected before the first call. Every failure of a call is a `WuliArtError`, except
 * a cancellation by the caller's own signal, which throws the signal's reason. A server that stops
 * answering in the middle of a call is noticed within 20 s, and one that cannot be connected to
 * within 10 s: UNAVAILABLE.
 */
export class WuliArt {
  readonly #images: Client<typeof ImageGenerationService>;
  readonly #adapters: Client<typeof AdapterService>;

  /** `target`: "HOST:PORT" or "unix:PATH". */
  constructor(
    readonly target: string = process.env["WULIART_TARGET"] ?? DEFAULT_TARGET,
    options: ConnectionOptions = {},
  ) {
    const transport = transportTo(target, options);
    this.#images = createClient(ImageGenerationService, transport);
    this.#adapters = createClient(AdapterService, transport);
  }

  /**
   * Asks for a picture: zero or more `queued`, one `started`, a `step` for each, one `completed`.
   *
   * Leaving the loop early cancels the work on the server.
   */
  async *generate(prompt: string, options: GenerateOptions = {}): AsyncGenerator<Event, void, void> {
    const { seed, steps, styles = [], preview = false, metadata = true } = options;
    const request = {
      prompt,
      ...(seed === undefined ? {} : { seed: wholeSeed(seed) }),
      ...(steps === undefined ? {} : { steps }),
      adapters: styles.map((style) => (typeof style === "string" ? { name: style } : style)),
      preview,
      omitRecipe: !metadata,
    };
    yield* this.#stream(options, (call) => this.#images.generateImage(request, call), eventOf);
  }

  /** Asks for a picture and waits for it. */
  async draw(prompt: string, options: DrawOptions = {}): Promise<Picture> {
    let started: Started | undefined;
    for await (const event of this.generate(prompt, options)) {
      options.onEvent?.(event);
      if (event.kind === "started") started = event;
      if (event.kind === "completed" && started) {
        const { steps, styles, skippedStyles } = started;
        return new Picture(event.image, event.seed, steps, styles, event.timings, skippedStyles);
      }
    }
    throw new WuliArtError("the stream ended without a picture", "PROTOCOL");
  }

  /** All styles by name, refused ones included. */
  async styles(): Promise<Style[]> {
    const styles: Style[] = [];
    const seen = new Set<string>();
    for (let pageToken = ""; ; seen.add(pageToken)) {
      const page = await this.#unary((call) => this.#adapters.listAdapters({ pageToken }, call));
      for (const adapter of page.adapters) styles.push(styleOf(adapter));
      pageToken = page.nextPageToken;
      if (!pageToken) return styles;
      if (seen.has(pageToken)) {
        throw new WuliArtError("the server's list of styles does not end", "PROTOCOL");
      }
    }
  }

  /** A snapshot of all styles, then each change as it happens; leaving the loop ends it. */
  async *watch(
    options: { resumeToken?: string; signal?: AbortSignal } = {},
  ): AsyncGenerator<StyleEvent, void, void> {
    const request = { resumeToken: options.resumeToken ?? "" };
    yield* this.#stream(
      options,
      (call) => this.#adapters.watchAdapters(request, call),
      styleEvents(),
    );
  }

  /** The server's model, device, limits and memory, and how busy it is. */
  async info(): Promise<GetServerInfoResponse> {
    return this.#unary((call) => this.#images.getServerInfo({}, call));
  }

  async #unary<T>(call: (options: { timeoutMs: number }) => Promise<T>): Promise<T> {
    try {
      return await call({ timeoutMs: patience.unary });
    } catch (error) {
      throw translated(error, this.target);
    }
  }

  async *#stream<M, T>(
    { signal, timeoutMs }: { signal?: AbortSignal; timeoutMs?: number },
    call: (options: { signal: AbortSignal; timeoutMs?: number }) => AsyncIterable<M>,
    read: (message: M) => T | undefined,
  ): AsyncGenerator<T, void, void> {
    signal?.throwIfAborted();
    // Its own, so that a caller who leaves the loop cancels the call, too.
    const left = new AbortController();
    const abort = (): void => left.abort();
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const deadline = timeoutMs === undefined ? {} : { timeoutMs };
      for await (const message of call({ signal: left.signal, ...deadline })) {
        const value = read(message);
        if (value !== undefined) yield value;
      }
    } catch (error) {
      signal?.throwIfAborted();
      throw translated(error, this.target);
    } finally {
      signal?.removeEventListener("abort", abort);
      left.abort();
    }
  }
}

function wholeSeed(seed: bigint | number): bigint {
  if (typeof seed === "number" && !Number.isSafeInteger(seed)) {
    throw new RangeError(`the seed ${seed} is no exact whole number; use a bigint: ${seed}n`);
  }
  return BigInt(seed);
}
