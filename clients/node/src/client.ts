// The client: turns arguments into requests, and cancels a call that its user leaves.

import { type Client, createClient } from "@connectrpc/connect";

import { type Adapter, type AdapterEvent, adapterEvents, readAdapter } from "./adapters.js";
import { translated, WuliArtError } from "./errors.js";
import { type Event, imageEvents } from "./events.js";
import { AdapterService } from "./gen/wuliart/v1/adapter_pb.js";
import {
  type GetServerInfoResponse,
  ImageGenerationService,
} from "./gen/wuliart/v1/image_generation_pb.js";
import type { GeneratedImage } from "./image.js";
import { type ConnectionOptions, DEFAULT_TARGET, timeouts, transportTo } from "./transport.js";

/** An adapter by its name, or with a weight from -4 to 4 (default 1). */
export type AdapterLike = string | { name: string; weight?: number };

export interface GenerateOptions {
  /** Seed of the initial noise, 0 to 2**64 - 1; the server picks one if it is absent. */
  seed?: bigint | number;
  /** Denoising steps; by default the number the model was made for (of four: 3 preview, 2 draft). */
  steps?: number;
  /** At most 4. */
  adapters?: readonly AdapterLike[];
  /** True for a small JPEG with each step. */
  preview?: boolean;
  /** False leaves the recipe out of the image's EXIF. The default is true. */
  metadata?: boolean;
  /** Cancels the request before its next step. */
  signal?: AbortSignal;
  /** Deadline of the request in milliseconds. */
  timeoutMs?: number;
}

export interface GenerateImageOptions extends GenerateOptions {
  /** Called with every event. An exception it throws cancels the request and is passed on. */
  onEvent?: (event: Event) => void;
}

/**
 * Generates images with a WuliArt Turbo server.
 *
 * The client connects at its first call. Every failure of a call is a `WuliArtError`, except a
 * cancellation by the `signal` option, which throws the signal's reason. A server that stops
 * answering during a call is detected within 20 s, one that cannot be connected to within 10 s;
 * both are UNAVAILABLE.
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
   * Requests an image and yields its events: zero or more `queued`, one `started`, a `step` for
   * each step, one `completed`.
   *
   * Leaving the loop early cancels the request.
   */
  async *generate(prompt: string, options: GenerateOptions = {}): AsyncGenerator<Event, void, void> {
    const { seed, steps, adapters = [], preview = false, metadata = true } = options;
    const request = {
      prompt,
      ...(seed === undefined ? {} : { seed: wholeSeed(seed) }),
      ...(steps === undefined ? {} : { steps }),
      adapters: adapters.map((adapter) => (typeof adapter === "string" ? { name: adapter } : adapter)),
      preview,
      omitRecipe: !metadata,
    };
    yield* this.#stream(options, (call) => this.#images.generateImage(request, call), imageEvents());
  }

  /** Requests an image and waits for it. */
  async generateImage(
    prompt: string,
    options: GenerateImageOptions = {},
  ): Promise<GeneratedImage> {
    for await (const event of this.generate(prompt, options)) {
      options.onEvent?.(event);
      if (event.kind === "completed") return event.image;
    }
    throw new WuliArtError("the stream ended without an image", "PROTOCOL");
  }

  /** Returns all adapters sorted by name, refused ones included. */
  async adapters(): Promise<Adapter[]> {
    const adapters: Adapter[] = [];
    const seen = new Set<string>();
    for (let pageToken = ""; ; seen.add(pageToken)) {
      const page = await this.#unary((call) => this.#adapters.listAdapters({ pageToken }, call));
      for (const adapter of page.adapters) adapters.push(readAdapter(adapter));
      pageToken = page.nextPageToken;
      if (!pageToken) return adapters;
      if (seen.has(pageToken)) {
        throw new WuliArtError("the server's list of adapters repeats a page", "PROTOCOL");
      }
    }
  }

  /** Returns an adapter's thumbnail, a JPEG of at most 256 pixels an edge; undefined without one. */
  async thumbnail(name: string): Promise<Uint8Array | undefined> {
    const { jpeg } = await this.#unary((call) => this.#adapters.getAdapterThumbnail({ name }, call));
    return jpeg.length > 0 ? jpeg : undefined;
  }

  /** Yields a snapshot of all adapters, then each change; leaving the loop ends the watch. */
  async *watch(
    options: { resumeToken?: string; signal?: AbortSignal } = {},
  ): AsyncGenerator<AdapterEvent, void, void> {
    const request = { resumeToken: options.resumeToken ?? "" };
    yield* this.#stream(
      options,
      (call) => this.#adapters.watchAdapters(request, call),
      adapterEvents(),
    );
  }

  /** Returns the server's model, device, limits, memory use and queue length. */
  async info(): Promise<GetServerInfoResponse> {
    return this.#unary((call) => this.#images.getServerInfo({}, call));
  }

  async #unary<T>(call: (options: { timeoutMs: number }) => Promise<T>): Promise<T> {
    try {
      return await call({ timeoutMs: timeouts.unary });
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
    // Not the option's own signal: leaving the loop must cancel the call, too.
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
    throw new RangeError(`the seed ${seed} is not an exact whole number; use a bigint: ${seed}n`);
  }
  return BigInt(seed);
}
