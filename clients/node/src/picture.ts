// A finished picture, and how it is saved without overwriting anything. Knows nothing of gRPC.

import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";

import type { SkippedStyle, StyleUse, Timings } from "./events.js";

export class Picture {
  constructor(
    /** A whole JPEG file of 1024x1024 pixels. */
    readonly image: Uint8Array,
    /** Draws this picture again. */
    readonly seed: bigint,
    readonly steps: number,
    readonly styles: readonly StyleUse[],
    readonly timings: Timings,
    /** Styles that it was drawn without, on a server that skips bad ones. */
    readonly skippedStyles: readonly SkippedStyle[],
  ) {}

  /**
   * Writes `YYYYMMDD_HHMMSS.jpg` into `directory`, which is created if it is missing.
   *
   * Nothing is ever overwritten: if this second's name is taken, the next free second's is used.
   * No half-written file is left. Returns the path.
   */
  async save(directory: string): Promise<string> {
    await mkdir(directory, { recursive: true });
    for (let time = Date.now(); ; time += 1000) {
      const path = join(directory, `${stamp(new Date(time))}.jpg`);
      try {
        await writeNew(path, this.image);
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
