// Styles and their changes as plain values. Knows the generated messages, nothing of channels.

import { timestampDate } from "@bufbuild/protobuf/wkt";

import {
  type Adapter,
  AdapterState,
  type WatchAdaptersResponse,
} from "./gen/wuliart/v1/adapter_pb.js";

/**
 * One LoRA file; `refusalReason` is empty unless it cannot be used, `waitingReason` unless its
 * content of now is not finished: unless `state` is "waiting", the content before it is in use.
 */
export interface Style {
  name: string;
  title: string;
  triggerWords: string[];
  rank: number;
  sizeBytes: bigint;
  contentHash: string;
  state: "resident" | "available" | "refused" | "waiting" | "unknown";
  refusalReason: string;
  waitingReason: string;
  residentSince?: Date;
  /** Of the server's memory; absent unless the style is resident. */
  slot?: number;
  /** Once resident, it makes no room for others. */
  pinned: boolean;
}

/** A snapshot of all styles, or one change; hand `resumeToken` to the next watch to go on here. */
export type StyleEvent = { resumeToken: string } & (
  | { kind: "snapshot"; styles: Style[] }
  | { kind: "added" | "updated" | "removed" | "refused"; style: Style }
);

const STATES: Partial<Record<AdapterState, Style["state"]>> = {
  [AdapterState.RESIDENT]: "resident",
  [AdapterState.AVAILABLE]: "available",
  [AdapterState.REFUSED]: "refused",
  [AdapterState.WAITING]: "waiting",
};

/** The plain value of a message. */
export function styleOf(adapter: Adapter): Style {
  const { name, title, triggerWords, rank, sizeBytes, contentHash, refusalReason } = adapter;
  const { residentSince, slot, pinned, waitingReason } = adapter;
  const state = STATES[adapter.state] ?? "unknown";
  return {
    ...{ name, title, triggerWords, rank, sizeBytes, contentHash, state, refusalReason, pinned },
    ...{ waitingReason },
    ...(residentSince ? { residentSince: timestampDate(residentSince) } : {}),
    ...(slot === undefined ? {} : { slot }),
  };
}

/** Reads the messages of one watch: undefined for a snapshot's part that is not its last, and for an
 * event that this version does not know. */
export function styleEvents(): (message: WatchAdaptersResponse) => StyleEvent | undefined {
  let parts: Style[] = [];
  return ({ event, resumeToken }) => {
    if (event.case === undefined) return undefined;
    if (event.case !== "snapshot") {
      return { kind: event.case, resumeToken, style: styleOf(event.value) };
    }
    const styles = parts.concat(event.value.adapters.map(styleOf));
    parts = event.value.more ? styles : [];
    return event.value.more ? undefined : { kind: "snapshot", resumeToken, styles };
  };
}
