// A generated image and the types that describe it. Saving never overwrites a file.

import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";

/** One exact version of an adapter, as used for one image. */
export interface AdapterUse {
  name: string;
  weight: number;
  /** SHA-256 of the file, 64 hexadecimal digits. */
  contentHash: string;
}

/** An adapter that the request named and the server left out because it cannot be used. */
export interface SkippedAdapter {
  name: string;
  /** The reason a stricter server would have failed with: ADAPTER_NOT_FOUND or ADAPTER_REFUSED. */
  reason: string;
  /** The same in words: what is wrong, and what to do. */
  message: string;
}

/** Milliseconds per stage; `total` runs from the request's arrival to the encoded image. */
export interface Timings {
  queued: number;
  textEncode: number;
  denoise: number;
  decode: number;
  jpegEncode: number;
  total: number;
}

/** A finished image and everything that decided it. */
export class GeneratedImage {
  /** A whole file of `mediaType`. */
  declare readonly data: Uint8Array;
  /** Always "image/jpeg". */
  declare readonly mediaType: string;
  /** In pixels. */
  declare readonly width: number;
  /** In pixels. */
  declare readonly height: number;
  /** Generates the same image again. */
  declare readonly seed: bigint;
  declare readonly steps: number;
  declare readonly adapters: readonly AdapterUse[];
  declare readonly timings: Timings;
  /** Empty unless the server runs with --on-bad-adapter=skip. */
  declare readonly skippedAdapters: readonly SkippedAdapter[];

  constructor(fields: Omit<GeneratedImage, "save">) {
    Object.assign(this, fields);
  }

  /**
   * Writes `YYYYMMDD_HHMMSS.jpg` into `directory`, which is created if it is missing.
   *
   * If this second's name is taken, the next free second's is used. A failed write leaves no file.
   * Returns the path.
   */
  async save(directory: string): Promise<string> {
    await mkdir(directory, { recursive: true });
    for (let time = Date.now(); ; time += 1000) {
      const path = join(directory, `${stamp(new Date(time))}.jpg`);
      try {
        await writeNew(path, this.data);
        return path;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
    }
  }
}

async function writeNew(path: string, data: Uint8Array): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.writeFile(data);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

function stamp(moment: Date): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const date = [moment.getFullYear(), two(moment.getMonth() + 1), two(moment.getDate())];
  const time = [two(moment.getHours()), two(moment.getMinutes()), two(moment.getSeconds())];
  return `${date.join("")}_${time.join("")}`;
}
