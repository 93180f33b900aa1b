// The server tells whether an upload is a video. The player's own word, that this browser cannot play it, would come
// beside it, and also for videos that the server reads.
document.addEventListener("error", event => {
  if (event.target.matches?.("#video video, #video source")) event.stopImmediatePropagation();
}, true);

// A picture of the page made large: by click, Enter or Space; arrows go to its neighbours, Escape closes.
(() => {
  const picture = "figure.vega-picture img";
  let dialog, all, place;

  function show(next) {
    place = (next + all.length) % all.length;
    dialog.querySelector("img").src = all[place].src;
    dialog.querySelector("img").alt = all[place].alt;
    dialog.querySelector("span").textContent =
      all.length > 1 ? `${all[place].alt} · ${place + 1} of ${all.length}` : all[place].alt;
    dialog.querySelectorAll("button.step").forEach(button => { button.hidden = all.length < 2; });
    const scale = document.querySelector("#reading .vega-ends");
    const legend = dialog.querySelector("div.legend");
    legend.replaceChildren();
    if (scale && all[place].closest("#gates")) legend.append("gate ", scale.cloneNode(true));
  }

  function make() {
    dialog = document.createElement("dialog");
    dialog.className = "vega-lightbox";
    dialog.setAttribute("aria-label", "Picture, enlarged");
    dialog.innerHTML = '<button class="close" aria-label="Close">×</button><img>' +
      '<p><button class="step" aria-label="Previous">‹</button><span></span>' +
      '<button class="step" aria-label="Next">›</button></p><div class="legend"></div>';
    const [previous, next] = dialog.querySelectorAll("button.step");
    previous.onclick = () => show(place - 1);
    next.onclick = () => show(place + 1);
    dialog.querySelector(".close").onclick = () => dialog.close();
    dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
    dialog.onkeydown = event => {
      if (event.key === "ArrowLeft") show(place - 1);
      if (event.key === "ArrowRight") show(place + 1);
    };
    document.querySelector(".gradio-container").append(dialog);
  }

  function open(image) {
    if (!dialog || !dialog.isConnected) make();
    all = [...image.closest(".vega-frames, #marked").querySelectorAll("img")];
    show(all.indexOf(image));
    dialog.showModal();
  }

  document.addEventListener("click", event => {
    if (event.target.matches(picture)) open(event.target);
  });
  document.addEventListener("keydown", event => {
    if (event.target.matches?.(picture) && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      open(event.target);
    }
  });
})();
