"""The demo as a visitor meets it: `vega3d demo` in a process of its own, and Debian's chromium."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tiny_checkpoints import FROZEN, copy_frozen
from vega3d.demo.examples import CATEGORIES, load_examples
from vega3d.demo.guard import GRADIO_FOLDER, PREFIX
from vega3d.shipped import example_clip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
COMMAND = [sys.executable, "-m", "vega3d_cli", "demo", "--device", "cpu"]
NOTICE = "Its answers mean nothing."
NUM_FRAMES = json.loads((FROZEN / "processor_config.json").read_text())["num_frames"]
FIRST = next(iter(CATEGORIES))  # of the examples of a model without scores
NUM_MAPS = (NUM_FRAMES + 1) // 2  # a patch of the VLM holds two frames
TOOK = re.compile(r"\d\.\d\d s")  # under an answer that is whole
SECONDS = 60_000  # [ms] limit of one wait; the machine may be busy


def processor_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the demo is served, by a model that tells no questions; fails if it leaves a file when it is ended."""
    folder, port = tmp_path_factory.mktemp("temporary"), free_port()
    environment = {**os.environ, "TMPDIR": str(folder)}
    environment.pop(GRADIO_FOLDER, None)  # a page that another test made in this process has set it
    model = copy_frozen(tmp_path_factory.mktemp("noted") / "model", notice=NOTICE, questions=None)
    command = [*COMMAND, "--port", str(port), "--model", str(model)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    line = process.stdout.readline()
    assert line.strip() == f"The demo is at http://127.0.0.1:{port}/"
    yield f"http://127.0.0.1:{port}/"
    assert list(folder.glob(f"{PREFIX}*/*/broken.mp4"))
    process.terminate()
    process.wait(60)
    assert [file for file in folder.rglob("*") if file.is_file()] == []


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, opened anew; fails if it asked for anything from elsewhere, or logged an error."""
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(SECONDS)
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    yield page
    page.close()
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


def choose_closest(page: Page) -> None:
    """Clicks on an example, and waits until it has filled the form."""
    page.get_by_role("button", name="Which is closest").click()
    expect(page.get_by_label("Question")).to_have_value(re.compile("is the closest"), timeout=SECONDS)


def ask(page: Page) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()


def fits_in_width(page: Page) -> bool:
    """Whether nothing reaches out of the page, and no text out of its panel."""
    panels = page.locator(".vega-answer, #question, #options, .vega-bar").evaluate_all(
        "all => all.every(one => one.scrollWidth <= one.clientWidth)"
    )
    return panels and page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def bottom(page: Page, selector: str) -> float:
    """Of an element [px]."""
    box = page.locator(selector).bounding_box()
    return box["y"] + box["height"]


def record_texts(page: Page, selector: str) -> None:
    """Collects what an element says, at each change, in `window.said`."""
    page.evaluate(
        """selector => {
            window.said = [];
            const note = () => window.said.push(document.querySelector(selector).innerText);
            new MutationObserver(note).observe(document.querySelector(selector),
                {subtree: true, childList: true, characterData: true});
        }""",
        selector,
    )


def test_an_example_is_answered(page, tmp_path):
    assert NOTICE in page.locator(".vega-notice").inner_text()

    page.locator("#room").get_by_text("study").click()
    expect(page.locator("#chips button.primary")).to_have_text([FIRST])

    page.get_by_role("button", name="Which box").click()
    expect(page.get_by_label("Options")).to_have_value("box A\nbox B\nbox C\nbox D")
    expect(page.locator("#marked img")).to_be_visible()
    expect(page.locator("#chips button.primary")).to_have_text(["Which box"])

    ask(page)
    expect(page.locator("#outcome")).to_contain_text("Right answer: A. box A", timeout=SECONDS)
    for answer in ("#fused", "#semantic"):
        expect(page.locator(f"{answer} .vega-text")).to_have_text(re.compile(r"[ABCD]\. box [ABCD]"))
        shares = page.locator(f"{answer} .vega-bars b").all_inner_texts()
        assert sum(int(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=2)
    expect(page.locator("#gates img")).to_have_count(NUM_MAPS)
    assert page.screenshot(path=tmp_path / "page.png")

    widths = page.locator("#gates img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths == [384] * NUM_MAPS
    expect(page.locator("#reading")).to_contain_text("mean")
    assert fits_in_width(page)

    page.set_viewport_size(PHONE)
    assert fits_in_width(page)


def test_text_in_the_place_of_a_number_is_one_click_away(page):
    page.get_by_role("button", name="Counting").click()
    record_texts(page, "#semantic")
    ask(page)
    expect(page.locator("#semantic")).to_contain_text(TOOK, timeout=SECONDS)
    expect(page.locator("#semantic .vega-text")).to_have_text("No answer: no number.")
    written = page.locator("#semantic details")
    said = page.evaluate("window.said")
    written.get_by_text("What the model wrote").click()
    raw = written.inner_text().removeprefix("What the model wrote").strip()
    assert raw and not any(raw[:8] in text for text in said)
    assert fits_in_width(page)


def test_form_answers_and_maps_need_no_scrolling(page):
    choose_closest(page)
    ask(page)
    expect(page.locator("#gates img")).to_have_count(NUM_MAPS, timeout=SECONDS)
    for element in ("#ask", "#gates", "#reading"):
        assert bottom(page, element) <= DESKTOP["height"]


def test_an_open_answer_is_streamed_and_a_second_question_is_faster(page):
    page.locator("#room").get_by_text("study").click()
    expect(page.get_by_label("Question")).to_have_value(load_examples()["study"][FIRST].question)

    page.locator("#kind").get_by_text("free text").click()
    page.get_by_label("Question").fill("Where is the lamp, from the first frame?")
    record_texts(page, "#fused")

    ask(page)

    expect(page.locator("#outcome")).to_contain_text(f"{NUM_FRAMES} frames", timeout=SECONDS)
    expect(page.locator("#semantic")).to_contain_text(TOOK, timeout=SECONDS)
    assert len(set(page.evaluate("window.said"))) > 3

    page.get_by_label("Question").fill("Is there a door?")
    ask(page)
    expect(page.locator("#outcome")).to_contain_text("kept from an earlier question", timeout=SECONDS)
    expect(page.locator("#outcome")).not_to_contain_text("Right answer")


def test_errors_are_told_and_leave_nothing_stuck(page, tmp_path):
    page.get_by_label("Question").fill(" ")
    ask(page)
    expect(page.locator(".toast-body").first).to_contain_text("The question is empty", timeout=SECONDS)

    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    page.locator("#video").get_by_label("Clear").click()
    page.get_by_label("Question").fill("Where is the bed?")

    ask(page)

    expect(page.locator(".toast-body", has_text="There is no video yet")).to_be_visible(timeout=SECONDS)
    expect(page.locator("#video input[type=file]")).to_be_attached()

    page.locator("#video input[type=file]").set_input_files(broken)
    told = page.locator(".toast-body", has_text="broken.mp4 is not a video")
    expect(told).to_be_visible(timeout=SECONDS)
    assert "/tmp" not in told.inner_text()

    page.wait_for_timeout(1000)  # [ms]; the player's own complaint would come beside it
    assert "not playable" not in " ".join(page.locator(".toast-body").all_inner_texts())

    choose_closest(page)
    expect(page.locator("#video video")).to_have_attribute("src", re.compile(r"/room\.mp4$"), timeout=SECONDS)

    ask(page)
    expect(page.locator("#outcome")).to_contain_text("Right answer", timeout=SECONDS)


def test_nothing_of_the_last_question_stays(page):
    choose_closest(page)
    ask(page)
    expect(page.locator("#outcome")).to_contain_text("Right answer", timeout=SECONDS)
    page.locator("#video").get_by_label("Clear").click()
    expect(page.locator("#gates img")).to_have_count(0, timeout=SECONDS)
    expect(page.locator("#fused")).to_contain_text("The answer appears here")
    expect(page.locator("#chips button.primary")).to_have_count(0)

    choose_closest(page)
    expect(page.locator("#video video")).to_be_visible(timeout=SECONDS)
    ask(page)
    expect(page.locator("#gates img")).to_have_count(NUM_MAPS, timeout=SECONDS)
    page.get_by_label("Question").fill("Where?")
    expect(page.locator("#chips button.primary")).to_have_count(0, timeout=SECONDS)
    page.locator("#room").get_by_text("study").click()
    expect(page.locator("#gates img")).to_have_count(0, timeout=SECONDS)


def test_a_map_is_made_large(page):
    ask(page)
    expect(page.locator("#gates img")).to_have_count(NUM_MAPS, timeout=SECONDS)
    large = page.locator("dialog.vega-lightbox")

    page.locator("#gates img").nth(1).click()
    expect(large.locator("span").first).to_contain_text(f"2 of {NUM_MAPS}")
    page.keyboard.press("ArrowRight")
    expect(large.locator("span").first).to_contain_text(f"3 of {NUM_MAPS}")
    large.get_by_label("Previous").click()
    large.get_by_label("Previous").click()
    large.get_by_label("Previous").click()
    expect(large.locator("span").first).to_contain_text(f"{NUM_MAPS} of {NUM_MAPS}")
    expect(large.locator(".legend")).to_contain_text(re.compile(r"gate 0\.\d\d\s+0\.\d\d"))
    assert large.locator("img").bounding_box()["width"] > 600
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    page.locator("#gates img").first.focus()
    page.keyboard.press("Enter")
    expect(large).to_be_visible()
    large.get_by_label("Close").click()
    expect(large).to_be_hidden()


def test_a_large_upload_is_refused(page, tmp_path):
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(101 * 2**20)
    page.locator("#video").get_by_label("Clear").click()
    page.locator("#video input[type=file]").set_input_files(large)
    expect(page.locator(".toast-body").first).to_contain_text("maximum allowed size of 100", timeout=SECONDS)
    page.get_by_role("button", name="Counting").click()
    expect(page.locator("#video video")).to_be_visible(timeout=SECONDS)


def test_a_stopped_answer_makes_room_for_the_next(page):
    page.locator("#kind").get_by_text("free text").click()
    ask(page)
    expect(page.locator("#outcome")).to_contain_text(f"{NUM_FRAMES} frames", timeout=SECONDS)

    page.get_by_role("button", name="Stop").click()
    stopped, done = page.locator("#outcome", has_text="Stopped"), page.locator("#semantic", has_text=TOOK)
    expect(stopped.or_(done).first).to_be_visible(timeout=SECONDS)  # until then another question is not taken
    assert "…" not in page.locator("#fused").inner_text() + page.locator("#semantic").inner_text()

    choose_closest(page)
    ask(page)
    expect(page.locator("#outcome")).to_contain_text("Right answer", timeout=SECONDS)
    expect(page.locator("#semantic .vega-bars b")).to_have_count(4)


def test_an_upload_is_answered(page):
    page.locator("#video").get_by_label("Clear").click()
    page.locator("#video input[type=file]").set_input_files(example_clip("study"))
    expect(page.locator("#video video")).to_be_visible(timeout=SECONDS)
    expect(page.locator("#room input:checked")).to_have_count(0)
    ask(page)
    expect(page.locator("#outcome")).to_contain_text(f"{NUM_FRAMES} frames", timeout=SECONDS)
    expect(page.locator("#outcome")).not_to_contain_text("Right answer")


def test_a_port_in_use_is_refused_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        start = processor_seconds_of_children()
        result = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: Cannot listen on 127.0.0.1:{port} (Address already in use).")
    assert len(result.stderr.splitlines()) == 1
    assert processor_seconds_of_children() - start < 10
