// A click on a style's picture chooses it, a second one chooses none; the list beside it follows, and
// what the list chooses is marked here. Below is what the chosen style's file says of it.
const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
let chosen = "";
const show = () => {
  const group = element.querySelector(".styles");
  group?.setAttribute("aria-label", group.dataset[language]);
  for (const button of element.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.name === chosen));
  }
  for (const line of element.querySelectorAll("p")) {
    line.hidden = line.dataset.name !== chosen || line.lang !== language;
  }
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  window.chosenStyle = button.dataset.name === chosen ? "" : button.dataset.name;
  trigger("choose");
});
window.addEventListener("style", ({ detail }) => {
  chosen = detail ?? "";
  show();
});
watch("value", show);
show();
