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
// Copies the text of another element. Browsers allow it with TLS and on this machine only.
for (const button of navigator.clipboard ? document.querySelectorAll("[data-copy]") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
// Chooses all rows of a table, or none if all are chosen.
for (const button of document.querySelectorAll("[data-choose]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const boxes = [...button.form.querySelectorAll(`input[name="${button.dataset.choose}"]`)];
    const wanted = !boxes.every((box) => box.checked);
    for (const box of boxes) box.checked = wanted;
  });
}
