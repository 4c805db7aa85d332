// What goes wrong in a call, as one kind of exception. Knows the status details of the service,
// nothing of what was asked for.

import { Code, ConnectError } from "@connectrpc/connect";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** A field of a request and what is wrong with it. */
export interface Violation {
  field: string;
  description: string;
}

/**
 * A call that failed. The message says what happened and what to do.
 *
 * `reason` is one of the names in `wuliart/contract/status.py` ("ADAPTER_NOT_FOUND", "QUEUE_FULL",
 * ...), or gRPC's own code ("UNAVAILABLE") where the failure did not come from the service.
 */
export class WuliArtError extends Error {
  override readonly name = "WuliArtError";

  constructor(
    message: string,
    readonly reason: string,
    /** Details by name; of ADAPTER_NOT_FOUND `nearest`, the most similar name there is. */
    readonly metadata: Readonly<Record<string, string>> = {},
    /** Every bad field of INVALID_REQUEST. */
    readonly violations: readonly Violation[] = [],
    /** When to try again, if the server said. */
    readonly retryAfterMs?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The field's own exception for whatever a call threw; anything else is passed through. */
export function translated(error: unknown, target: string): unknown {
  if (!(error instanceof ConnectError)) return error;
  const [info] = error.findDetails(ErrorInfoSchema);
  if (info?.domain !== "wuliart") {
    const what =
      error.code === Code.Unavailable
        ? `no server answers at ${target}; is it running? (${error.rawMessage})`
        : error.rawMessage;
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

function snake(name: string): string {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}
