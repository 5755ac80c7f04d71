// Live parts refresh themselves. They pause while nobody sees the page, and while the reader has selected rows or
// is about to enter something. If a refresh fails, the page says that it shows an older state.
const stale = document.getElementById("stale");
document.addEventListener("htmx:before:request", (event) => {
  const live = event.target.closest("[data-live]") || event.target;
  const busy = "input[type=checkbox]:checked, input:focus, select:focus, textarea:focus";
  const refreshes = event.detail.ctx.request.method === "GET";
  if (refreshes && (document.hidden || live.querySelector(busy))) event.preventDefault();
});
document.addEventListener("htmx:after:request", (event) => {
  stale.hidden = event.detail.ctx.response.status < 400;
});
document.addEventListener("htmx:error", () => { stale.hidden = false; });
// Buttons that need this script are shown by it. A refresh may replace them, so their clicks are taken here.
document.documentElement.classList.add("scripted");
document.addEventListener("click", (event) => {
  const { copy, choose } = event.target.dataset;
  if (copy) {
    // The clipboard needs TLS or this machine. The selected text can be copied with the keyboard everywhere.
    const text = document.getElementById(copy);
    getSelection().selectAllChildren(text);
    navigator.clipboard?.writeText(text.textContent).then(() => { event.target.textContent = "Copied"; });
  } else if (choose) {
    const boxes = [...event.target.form.querySelectorAll(`input[name="${choose}"]`)];
    const wanted = !boxes.every((box) => box.checked);
    for (const box of boxes) box.checked = wanted;
  }
});
