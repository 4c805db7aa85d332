// The image: Ctrl+wheel zooms at the pointer, drag pans, keys do both, double-click on the empty
// area leaves full screen. And what a keyboard needs of the big button. Draws nothing itself.
(() => {
  const MOST = 16; // times
  const state = new WeakMap();
  const of = (image) => state.get(image) ?? { x: 0, y: 0, scale: 1 };
  const show = (image, next) => {
    state.set(image, next);
    image.style.transform = `translate(${next.x}px, ${next.y}px) scale(${next.scale})`;
    image.closest(".viewer").classList.toggle("zoomed", next.scale > 1);
  };
  // The point at (x, y) of the window stays where it is.
  const zoom = (image, factor, x, y) => {
    const from = of(image);
    const scale = Math.min(MOST, Math.max(1, from.scale * factor));
    if (scale === 1) return show(image, { x: 0, y: 0, scale });
    const box = image.getBoundingClientRect();
    const grown = scale / from.scale - 1;
    show(image, { x: from.x - (x - box.left) * grown, y: from.y - (y - box.top) * grown, scale });
  };
  const pan = (image, from, x, y) => {
    if (from.scale > 1) show(image, { ...from, x: from.x + x, y: from.y + y });
  };

  document.addEventListener("wheel", (event) => {
    const image = event.target.closest?.(".viewer")?.querySelector("img.finished");
    if (!image || !event.ctrlKey) return;
    event.preventDefault();
    zoom(image, Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
  }, { passive: false });

  let held = null;
  document.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.target.matches?.("img.finished")) {
      held = { image: event.target, x: event.clientX, y: event.clientY, from: of(event.target) };
    }
  });
  document.addEventListener("pointermove", (event) => {
    if (held) pan(held.image, held.from, event.clientX - held.x, event.clientY - held.y);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => { held = null; });
  }

  const KEYS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      document.querySelector("#draw")?.click();
    }
    const image = event.target.matches?.(".whole") && event.target.querySelector("img.finished");
    if (!image || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = event.target.getBoundingClientRect();
    const middle = [box.left + box.width / 2, box.top + box.height / 2];
    if (event.key === "+" || event.key === "=") zoom(image, 1.25, ...middle);
    else if (event.key === "-") zoom(image, 0.8, ...middle);
    else if (event.key === "0") zoom(image, 0, ...middle);
    else if (KEYS[event.key] && of(image).scale > 1) pan(image, of(image), ...KEYS[event.key]);
    else return;
    event.preventDefault();
  });

  // The part that stays while images come and go, so that drawing goes on in full screen.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button.full")) {
      if (document.fullscreenElement) document.exitFullscreen();
      else document.querySelector("#shown").requestFullscreen();
    }
    if (event.target.closest?.("#draw")) {
      document.querySelector("#shown").scrollIntoView({ block: "nearest" });
    }
  });
  document.addEventListener("dblclick", (event) => {
    if (document.fullscreenElement && event.target.closest?.("#shown") &&
        !event.target.closest("img, .tools")) document.exitFullscreen();
  });

  // A big button that gives way to another hands its focus on, and the line above the image is
  // read aloud from one place that stays: what is put in anew is not read.
  let handing = false;
  document.addEventListener("focusin", (event) => {
    handing = event.target.matches("#draw, #stop");
  });
  const aloud = document.createElement("div");
  aloud.className = "aloud";
  aloud.setAttribute("role", "status");
  new MutationObserver(() => {
    if (!aloud.isConnected) document.body.append(aloud);
    const line = document.querySelector("#shown .line")?.textContent ?? "";
    if (aloud.textContent !== line) aloud.textContent = line;
    if (handing && document.activeElement === document.body) {
      document.querySelector("#stop, #draw")?.focus({ preventScroll: true });
    }
  }).observe(document, { childList: true, subtree: true });
})();
