// The image viewer: Ctrl+wheel zooms at the pointer, dragging pans, keys do both, a double click on
// the empty area leaves full screen. Also keyboard focus of the big button and announcements to
// screen readers.
(() => {
  const MAX_SCALE = 16;
  const state = new WeakMap();
  const of = (image) => state.get(image) ?? { x: 0, y: 0, scale: 1 };
  const show = (image, next) => {
    state.set(image, next);
    image.style.transform = `translate(${next.x}px, ${next.y}px) scale(${next.scale})`;
    image.closest(".viewer").classList.toggle("zoomed", next.scale > 1);
  };
  // The point at (x, y) of the window keeps its place.
  const zoom = (image, factor, x, y) => {
    const from = of(image);
    const scale = Math.min(MAX_SCALE, Math.max(1, from.scale * factor));
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

  let dragged = null;
  document.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.target.matches?.("img.finished")) {
      dragged = { image: event.target, x: event.clientX, y: event.clientY, from: of(event.target) };
    }
  });
  document.addEventListener("pointermove", (event) => {
    if (dragged) {
      pan(dragged.image, dragged.from, event.clientX - dragged.x, event.clientY - dragged.y);
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => { dragged = null; });
  }

  const KEYS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      document.querySelector("#generate")?.click();
    }
    const image = event.target.matches?.(".image-frame") && event.target.querySelector("img.finished");
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

  // Full screen is the element that stays while its images change, so that generation continues
  // in full screen.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button.full")) {
      if (document.fullscreenElement) document.exitFullscreen();
      else document.querySelector("#result").requestFullscreen();
    }
    if (event.target.closest?.("#generate")) {
      document.querySelector("#result").scrollIntoView({ block: "nearest" });
    }
  });
  document.addEventListener("dblclick", (event) => {
    if (document.fullscreenElement && event.target.closest?.("#result") &&
        !event.target.closest("img, .tools")) document.exitFullscreen();
  });

  // A big button that is replaced by another passes its focus on. The status line is announced from
  // an element that stays: screen readers do not announce an element that is inserted anew.
  let buttonHadFocus = false;
  document.addEventListener("focusin", (event) => {
    buttonHadFocus = event.target.matches("#generate, #stop");
  });
  const announcer = document.createElement("div");
  announcer.className = "announcer";
  announcer.setAttribute("role", "status");
  new MutationObserver(() => {
    if (!announcer.isConnected) document.body.append(announcer);
    const line = document.querySelector("#result .line")?.textContent ?? "";
    if (announcer.textContent !== line) announcer.textContent = line;
    if (buttonHadFocus && document.activeElement === document.body) {
      document.querySelector("#stop, #generate")?.focus({ preventScroll: true });
    }
  }).observe(document, { childList: true, subtree: true });
})();
