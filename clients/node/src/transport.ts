// The connection to the server: how it is made, and how one that stopped answering is noticed.
// Knows nothing of the calls made over it.

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
  /** Speaks TLS, with the authorities the system trusts or, as PEM, the one given. */
  tls?: boolean | { ca: string; cert?: string; key?: string };
}

/** An address: the name localhost has two, and a server of another kind may listen on the other. */
export const DEFAULT_TARGET = "127.0.0.1:50051";

/** How long the client waits, in milliseconds. */
export const patience = {
  /** For one attempt at a connection. */
  connect: 10_000,
  /** Without a byte from the server while a call is open, before the client asks for one. */
  silence: 10_000,
  /** For the server's answer to that, given by gRPC itself however busy the server is. */
  answer: 10_000,
  /** For the whole of a call that only reads something: the server answers these at once. */
  unary: 30_000,
};

/** Bytes of the largest message: a noisy 1024x1024 JPEG stays below 4 MiB. */
const LARGEST_MESSAGE = 16 << 20;

/** The transport of one client; nothing is connected before the first call. */
export function transportTo(target: string, options: ConnectionOptions): Transport {
  const path = /^unix:(?:\/\/)?(.+)$/.exec(target)?.[1];
  const token = options.token ?? process.env["WULIART_TOKEN"];
  const identify: Interceptor = (next) => (request) => {
    if (token) request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  // HTTP/2 asks for an authority even where there is only a file.
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

/** Connect's session manager with a limit to how long connecting takes. */
class Connection implements Sessions {
  readonly authority: string;
  readonly #sessions: Http2SessionManager;

  constructor(url: string, options: SecureClientSessionOptions) {
    const pings = { pingIntervalMs: patience.silence, pingTimeoutMs: patience.answer };
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
    const step = patience.connect / 10;
    let connecting = 0;
    return setInterval(() => {
      connecting = this.#sessions.state() === "connecting" ? connecting + step : 0;
      if (connecting < patience.connect) return;
      this.#sessions.abort(new ConnectError(NO_CONNECTION, Code.Unavailable));
    }, step);
  }
}

/**
 * Keeps a session that fails late from ending the process: the manager stops listening to one that
 * answered no ping when it makes the next, before the old one has reported its error.
 */
function tolerate(session: Http2Session | undefined): void {
  if (!session?.listeners("error").includes(ignore)) session?.on("error", ignore);
}

function ignore(): void {
  // Each stream of the session has the error, too.
}
