"""Takes the picture of the demo for the docs, with Debian's chromium.

vega3d demo --port 7860  # in another shell
python recipes/demo_picture.py http://127.0.0.1:7860 docs/results/demo.webp
"""

import sys
from functools import partial
from io import BytesIO
from pathlib import Path

from palette import save_palette
from PIL import Image
from playwright.sync_api import sync_playwright

from vega3d.files import write_whole

SIZE = {"width": 1280, "height": 1080}
CATEGORY = "Which is closest"


def main(address: str, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(address, wait_until="domcontentloaded")
        page.get_by_role("button", name=CATEGORY).click()
        page.wait_for_function("document.querySelector('#question textarea').value.includes('is the closest')")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.wait_for_function("document.querySelector('#outcome').innerText.includes('Right answer')")
        page.wait_for_function("[...document.querySelectorAll('#gates img')].every(image => image.complete)")
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)  # [ms]; the page fades its panels
        picture = Image.open(BytesIO(page.screenshot()))
        browser.close()
    write_whole(path, partial(save_palette, picture))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
