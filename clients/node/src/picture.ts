// A finished picture, and how it is saved without overwriting anything. Knows nothing of gRPC.

import { mkdir, writeFile } from "node:fs/promises";
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
   * Returns the path.
   */
  async save(directory: string): Promise<string> {
    await mkdir(directory, { recursive: true });
    for (let time = Date.now(); ; time += 1000) {
      const path = join(directory, `${stamp(new Date(time))}.jpg`);
      try {
        await writeFile(path, this.image, { flag: "wx" });
        return path;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
    }
  }
}

function stamp(moment: Date): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const date = [moment.getFullYear(), two(moment.getMonth() + 1), two(moment.getDate())];
  const time = [two(moment.getHours()), two(moment.getMinutes()), two(moment.getSeconds())];
  return `${date.join("")}_${time.join("")}`;
}
