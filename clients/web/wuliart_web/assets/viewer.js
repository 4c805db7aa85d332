// Zoom and pan of the picture: Ctrl+wheel at the pointer, drag, double-click on the empty area.
(() => {
  const state = new WeakMap();
  const of = (image) => state.get(image) ?? { x: 0, y: 0, scale: 1 };
  const show = (image, next) => {
    state.set(image, next);
    image.style.transform = `translate(${next.x}px, ${next.y}px) scale(${next.scale})`;
  };
  document.addEventListener("wheel", (event) => {
    const viewer = event.target.closest?.(".viewer");
    const image = viewer?.querySelector("img:not(.preview)");
    if (!image || !event.ctrlKey) return;
    event.preventDefault();
    const { x, y, scale } = of(image);
    const wanted = Math.min(16, Math.max(1, scale * Math.exp(-event.deltaY / 400)));
    if (wanted === 1) return show(image, { x: 0, y: 0, scale: 1 });
    // The point under the pointer stays where it is.
    const box = image.getBoundingClientRect();
    const grown = wanted / scale - 1;
    show(image, {
      x: x - (event.clientX - box.left) * grown,
      y: y - (event.clientY - box.top) * grown,
      scale: wanted,
    });
  }, { passive: false });
  let held = null;
  document.addEventListener("pointerdown", (event) => {
    const image = event.target.closest?.(".viewer img:not(.preview)");
    if (image && event.button === 0) held = { image, x: event.clientX, y: event.clientY, from: of(image) };
  });
  document.addEventListener("pointermove", (event) => {
    if (!held || held.from.scale === 1) return;
    show(held.image, {
      ...held.from,
      x: held.from.x + event.clientX - held.x,
      y: held.from.y + event.clientY - held.y,
    });
  });
  document.addEventListener("pointerup", () => { held = null; });
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("button.whole")) return;
    document.querySelector(".viewer")?.requestFullscreen();
  });
  document.addEventListener("dblclick", (event) => {
    if (event.target.matches?.(".viewer") && document.fullscreenElement) document.exitFullscreen();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      document.querySelector("#draw")?.click();
    }
  });
})();
