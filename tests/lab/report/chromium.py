"""Pages in headless Chromium: what a script in the page finds, and the errors that it met."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")

# Errors are collected from before the page's own scripts on.
_COLLECT = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
console.error = (...words) => errors.push(words.join(" "));
</script>"""
_PLAY = """<script>
addEventListener("load", async () => {
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  let found = null;
  try { found = await (async () => { %s })(); } catch (error) { errors.push(error.stack); }
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  const width = document.documentElement.scrollWidth;
  parent.postMessage(JSON.stringify({ found, errors, loaded, width }), "*");
});
</script>"""
# A window is at least 500 pixels wide; a frame in it can be as narrow as a phone.
_FRAME = """<!DOCTYPE html><pre id="played">nothing</pre><script>
addEventListener("message", (event) => {
  document.getElementById("played").textContent = event.data;
});
</script><iframe src="%s" style="width: %dpx; height: 900px; border: 0"></iframe>"""


def play(page, script, folder, width=1000):
    """Opens a page, runs the body of an async function in it, and returns what that returns.

    Args:
        page: HTML.
        script: JavaScript; it can await ``pause(ms)``.
        folder: For temporary files.
        width: Of the frame, in pixels.

    Returns:
        A dict: `found`, what the script returns; `errors`, those of the console; `loaded`, the
        addresses of other files; `width`, that of the page.
    """
    file, frame = folder / "played.html", folder / "frame.html"
    page = page.replace("<head>", f"<head>{_COLLECT}", 1) + _PLAY % script
    file.write_text(page, encoding="utf-8")
    frame.write_text(_FRAME % (file.as_uri(), width), encoding="utf-8")
    software = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU
    command = [CHROMIUM, "--headless", "--no-sandbox", *software, "--window-size=1100,900"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=300
    )
    played = re.search('<pre id="played">(.*?)</pre>', done.stdout, re.DOTALL)
    assert played and played[1] != "nothing", done.stderr[-2000:]
    return json.loads(unescape(played[1]))
