// Failed calls as one exception class, read from the service's status details.

import { Code, ConnectError } from "@connectrpc/connect";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** Connect's message after an unanswered ping. */
const NO_ANSWER = "PING timed out";

/** The message of an attempt to connect that took too long. */
export const NO_CONNECTION = "no connection in time";

/** A field of a request and what is wrong with it. */
export interface Violation {
  field: string;
  description: string;
}

/**
 * A call that failed. The message says what happened and what to do.
 *
 * `reason` is one of the names in `wuliart_contract/status.py` ("ADAPTER_NOT_FOUND", "QUEUE_FULL",
 * ...), or gRPC's own code ("UNAVAILABLE") where the failure did not come from the service.
 */
export class WuliArtError extends Error {
  override readonly name = "WuliArtError";

  constructor(
    message: string,
    readonly reason: string,
    /** Details by name; ADAPTER_NOT_FOUND has `nearest`, the most similar name that exists. */
    readonly metadata: Readonly<Record<string, string>> = {},
    /** Every invalid field, for INVALID_REQUEST. */
    readonly violations: readonly Violation[] = [],
    /** When to try again, if the server says so. */
    readonly retryAfterMs?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Returns the exception for a `ConnectError`; returns any other value unchanged. */
export function translated(error: unknown, target: string): unknown {
  if (!(error instanceof ConnectError)) return error;
  const [info] = error.findDetails(ErrorInfoSchema);
  if (info?.domain !== "wuliart") {
    const what = error.code === Code.Unavailable ? unavailable(error, target) : error.rawMessage;
    return new WuliArtError(what, snake(Code[error.code]), {}, [], undefined, { cause: error });
  }
  const violations = error
    .findDetails(BadRequestSchema)
    .flatMap((bad) => bad.fieldViolations)
    .map(({ field, description }) => ({ field, description }));
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return new WuliArtError(
    error.rawMessage,
    info.reason,
    info.metadata,
    violations,
    delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
    { cause: error },
  );
}

function unavailable({ rawMessage }: ConnectError, target: string): string {
  const advice = "see whether it runs and can be reached, then try again";
  if (rawMessage === NO_ANSWER) {
    return `the server at ${target} stopped answering: nothing came for 20 s; ${advice}`;
  }
  if (rawMessage === NO_CONNECTION) {
    return `the server at ${target} does not answer: no connection within 10 s; ${advice}`;
  }
  return `no server answers at ${target}; is it running? (${rawMessage})`;
}

function snake(name: string): string {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}
