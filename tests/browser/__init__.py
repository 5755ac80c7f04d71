"""The pages in a real browser. Skipped where Playwright or Chromium is missing: see `make browser-test`."""
