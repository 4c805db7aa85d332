// A progress bar in your app: node examples/progress.mjs "a red fox in the snow" [adapter]
import { WuliArt, WuliArtError } from "wuliart-client";

const [prompt = "a red fox in the snow", adapter] = process.argv.slice(2);
const controller = new AbortController();
process.once("SIGINT", () => controller.abort());

function show(event) {
  if (event.kind === "queued") console.log(`${event.position} before you`);
  if (event.kind === "started") console.log(`seed ${event.seed}`);
  if (event.kind === "step") {
    const { step, totalSteps } = event;
    console.log(`${"█".repeat(step)}${"░".repeat(totalSteps - step)} step ${step}/${totalSteps}`);
  }
}

try {
  const image = await new WuliArt().generateImage(prompt, {
    adapters: adapter ? [adapter] : [],
    signal: controller.signal,
    onEvent: show,
  });
  console.log(`saved ${await image.save("outputs")}`);
} catch (error) {
  if (!controller.signal.aborted && !(error instanceof WuliArtError)) throw error;
  console.error(controller.signal.aborted ? "cancelled" : error.message);
  process.exitCode = 1;
}
