// Adapters and their changes as plain values, read from the generated messages.

import { timestampDate } from "@bufbuild/protobuf/wkt";

import {
  type Adapter as AdapterMessage,
  AdapterState,
  type WatchAdaptersResponse,
} from "./gen/wuliart/v1/adapter_pb.js";

/** One LoRA file of the server. */
export interface Adapter {
  name: string;
  title: string;
  triggerWords: string[];
  /** The largest of its tensors; 0 if it is not known. */
  rank: number;
  sizeBytes: bigint;
  /** SHA-256 of the file, 64 hexadecimal digits; empty if the file could not be read. */
  contentHash: string;
  state: "resident" | "available" | "refused" | "waiting" | "unknown";
  /** Why the adapter cannot be used; otherwise empty. */
  refusalReason: string;
  /**
   * Why the file's present content is not used yet, because it is not finished; otherwise empty.
   * Unless `state` is "waiting", the previous content stays in use.
   */
  waitingReason: string;
  /** What the file holds and the adapter does not, as sentences for people. */
  notes: string[];
  /** SHA-256 of what `WuliArt.thumbnail` returns, 64 hexadecimal digits; empty if there is none. */
  thumbnailHash: string;
  residentSince?: Date;
  /** The adapter's place in the server's memory; absent unless it is resident. */
  slot?: number;
  /** Once resident, a pinned adapter is not evicted for others. */
  pinned: boolean;
}

/** A snapshot of all adapters, or one change. `watch({ resumeToken })` continues after it. */
export type AdapterEvent = { resumeToken: string } & (
  | { kind: "snapshot"; adapters: Adapter[] }
  | { kind: "added" | "updated" | "removed" | "refused"; adapter: Adapter }
);

const STATES: Partial<Record<AdapterState, Adapter["state"]>> = {
  [AdapterState.RESIDENT]: "resident",
  [AdapterState.AVAILABLE]: "available",
  [AdapterState.REFUSED]: "refused",
  [AdapterState.WAITING]: "waiting",
};

/** Returns the plain value of a message. */
export function readAdapter(message: AdapterMessage): Adapter {
  const { name, title, triggerWords, rank, sizeBytes, contentHash, refusalReason } = message;
  const { residentSince, slot, pinned, waitingReason, notes, thumbnailHash } = message;
  const state = STATES[message.state] ?? "unknown";
  return {
    ...{ name, title, triggerWords, rank, sizeBytes, contentHash, state, refusalReason, pinned },
    ...{ waitingReason, notes, thumbnailHash },
    ...(residentSince ? { residentSince: timestampDate(residentSince) } : {}),
    ...(slot === undefined ? {} : { slot }),
  };
}

/**
 * Returns a reader for the responses of one WatchAdapters call, in order.
 *
 * The reader returns undefined for every part of a snapshot but the last, and for an event that
 * this version does not know.
 */
export function adapterEvents(): (message: WatchAdaptersResponse) => AdapterEvent | undefined {
  let parts: Adapter[] = [];
  return ({ event, resumeToken }) => {
    if (event.case === undefined) return undefined;
    if (event.case !== "snapshot") {
      return { kind: event.case, resumeToken, adapter: readAdapter(event.value) };
    }
    const adapters = parts.concat(event.value.adapters.map(readAdapter));
    parts = event.value.more ? adapters : [];
    return event.value.more ? undefined : { kind: "snapshot", resumeToken, adapters };
  };
}
