// The connection to the server: how it is made, and how a dead one is detected.

import type {
  ClientHttp2Stream,
  ClientSessionRequestOptions,
  Http2Session,
  OutgoingHttpHeaders,
  SecureClientSessionOptions,
} from "node:http2";
import { connect, type Socket } from "node:net";

import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { NO_CONNECTION } from "./errors.js";

export interface ConnectionOptions {
  /** Sent with every call; $WULIART_TOKEN if it is absent. */
  token?: string;
  /** True for TLS with the authorities that the system trusts, or PEM texts to use instead. */
  tls?: boolean | { ca: string; cert?: string; key?: string };
}

/** An address, because the name localhost has two and another server may listen on the other. */
export const DEFAULT_TARGET = "127.0.0.1:50051";

/** In milliseconds. The tests shorten them. */
export const timeouts = {
  /** For one attempt at a connection. */
  connect: 10_000,
  /** Silence during a call after which the client sends a ping. */
  silence: 10_000,
  /** For the answer to that ping, which gRPC itself sends however busy the server is. */
  answer: 10_000,
  /** For a whole unary call; the server answers these at once. */
  unary: 30_000,
};

/** In bytes. Even a JPEG of pure noise, 1024x1024, stays below 4 MiB. */
const LARGEST_MESSAGE = 16 << 20;

/** Returns the transport of one client, which connects at the first call. */
export function transportTo(target: string, options: ConnectionOptions): Transport {
  const path = /^unix:(?:\/\/)?(.+)$/.exec(target)?.[1];
  const token = options.token ?? process.env["WULIART_TOKEN"];
  const identify: Interceptor = (next) => (request) => {
    if (token) request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  // HTTP/2 requires an authority, which a socket file does not have.
  const baseUrl = path ? "http://localhost" : `${options.tls ? "https" : "http"}://${target}`;
  return createGrpcTransport({
    baseUrl,
    readMaxBytes: LARGEST_MESSAGE,
    interceptors: [identify],
    sessionManager: new Connection(baseUrl, {
      ...(typeof options.tls === "object" ? options.tls : {}),
      ...(path ? { createConnection: (): Socket => connect(path) } : {}),
    }),
  });
}

type Sessions = Pick<Http2SessionManager, "authority" | "request" | "notifyResponseByteRead">;

/** Connect's session manager plus a limit on the time to connect. */
class Connection implements Sessions {
  readonly authority: string;
  readonly #sessions: Http2SessionManager;

  constructor(url: string, options: SecureClientSessionOptions) {
    const pings = { pingIntervalMs: timeouts.silence, pingTimeoutMs: timeouts.answer };
    this.#sessions = new Http2SessionManager(url, pings, options);
    this.authority = this.#sessions.authority;
  }

  async request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: Omit<ClientSessionRequestOptions, "signal">,
  ): Promise<ClientHttp2Stream> {
    const watching = this.#limitConnecting();
    try {
      const stream = await this.#sessions.request(method, path, headers, options);
      tolerate(stream.session);
      return stream;
    } finally {
      clearInterval(watching);
    }
  }

  notifyResponseByteRead(stream: ClientHttp2Stream): void {
    this.#sessions.notifyResponseByteRead(stream);
  }

  #limitConnecting(): NodeJS.Timeout {
    const step = timeouts.connect / 10;
    let connecting = 0;
    return setInterval(() => {
      connecting = this.#sessions.state() === "connecting" ? connecting + step : 0;
      if (connecting < timeouts.connect) return;
      this.#sessions.abort(new ConnectError(NO_CONNECTION, Code.Unavailable));
    }, step);
  }
}

/**
 * Keeps a session that fails late from ending the process. After an unanswered ping the session
 * manager opens a new session and removes its listeners from the old one before the old one has
 * reported its error; an `error` event without a listener would then be thrown.
 */
function tolerate(session: Http2Session | undefined): void {
  if (!session?.listeners("error").includes(ignore)) session?.on("error", ignore);
}

function ignore(): void {
  // Every stream of the session reports the same error.
}
