// A click on a thumbnail restores its image and settings.
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button[data-number]");
  if (!chosen) return;
  for (const button of element.querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button === chosen));
  }
  trigger("restore", { number: Number(chosen.dataset.number) });
});
