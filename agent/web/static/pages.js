// A page does not refresh itself while the reader has selected rows or typed something.
document.addEventListener("htmx:before:request", (event) => {
  const live = event.target.closest("[data-live]") || event.target;
  if (live.querySelector("input:checked, input:focus, select:focus, textarea:focus")) event.preventDefault();
});
