// Saving to a full disk. Needs no server.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const SAVING = `
import { GeneratedImage } from "${new URL("../dist/image.js", import.meta.url)}";
const image = new GeneratedImage({ data: new Uint8Array(1 << 20) });
await image.save(process.argv[1]).then(
  () => console.log("saved"),
  (error) => console.log(error.code),
);
`;

test("an image that does not fit leaves no partial file", async () => {
  const folder = await mkdtemp(join(tmpdir(), "wuliart-"));
  // Like a quota, the limit interrupts the write in the middle of the file.
  const limited = 'ulimit -f 100; exec "$0" --input-type=module -e "$1" "$2"';
  const { stdout, stderr } = spawnSync("bash", ["-c", limited, process.execPath, SAVING, folder]);
  assert.equal(String(stdout), "EFBIG\n", String(stderr));
  assert.deepEqual(await readdir(folder), []);
});
