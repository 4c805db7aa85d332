// What a small model knows, in the visitor's language, and six example prompts: others at each load
// and after a click on "others". An example fills the prompt and starts nothing.
let source = "";
let prompts = [];
const introduction = () => {
  const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
  const all = [...element.querySelectorAll("[data-prompts]")];
  return all.find((each) => each.lang === language) ?? all[0];
};
const buttons = () => introduction().querySelectorAll(".example");
const fill = () => {
  buttons().forEach((button, place) => {
    button.textContent = prompts[place] ?? "";
    button.hidden = place >= prompts.length;
  });
};
const shuffled = (list) => {
  const keyed = list.map((value) => ({ value, key: Math.random() }));
  return keyed.sort((a, b) => a.key - b.key).map(({ value }) => value);
};
// The same introduction may come again, for example after the server was away: nothing changes then.
const show = () => {
  const shown = introduction();
  if (!shown) return;
  if (shown.dataset.prompts !== source) {
    source = shown.dataset.prompts;
    prompts = shuffled(JSON.parse(source));
  }
  fill();
  shown.hidden = false;
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.matches(".others")) {
    prompts.push(...prompts.splice(0, buttons().length));
    fill();
  } else if (button?.matches(".example")) {
    const prompt = document.querySelector("#prompt textarea");
    prompt.value = button.textContent;
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
  }
});
watch("value", show);
show();
