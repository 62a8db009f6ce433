"""The search page in headless Chromium, by keyboard alone."""

import contextlib
import importlib.util
import os
import shutil
import threading
import time

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [
    how
    for found, how in (
        (importlib.util.find_spec("bm25s"), "sparse_jax[search]"),
        (importlib.util.find_spec("playwright"), "sparse_jax[browser]"),
        (CHROMIUM, "Chromium: apt-get install chromium"),
    )
    if not found
]
if MISSING:
    needs = f"THE PAGE IS NOT TESTED in a browser: needs {', '.join(MISSING)}"
    if os.environ.get("SPARSE_JAX_REQUIRE_BROWSER") == "1":
        pytest.fail(needs, pytrace=False)
    pytest.skip(needs, allow_module_level=True)

import uvicorn  # noqa: E402
from playwright import sync_api  # noqa: E402
from small_writer import save_model  # noqa: E402

from sparse_jax import search  # noqa: E402
from sparse_jax.commands.serve import make_app, page  # noqa: E402
from sparse_jax.commands.serve.index import SearchIndex  # noqa: E402
from sparse_jax.commands.serve.writer import Writer  # noqa: E402
from sparse_jax.search.thumbs import Thumbs  # noqa: E402

CONFIG = search.Config(num_features=1 << 17, dim=16, cold_steps=10, cold_batch=64)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of the sample, on a free port."""
    place = tmp_path_factory.mktemp("browser")
    rows = [search.Document(f"n{i}", f"a note {i}", metadata={"kind": "ab"[i % 2]}) for i in (1, 2)]
    for name, documents in (("i", page.sample()), ("notes", rows)):
        with search.fit(documents, config=CONFIG) as made:
            made.save(place / name)
    with contextlib.ExitStack() as stack:
        save_model(place / "lm", [row.text for row in page.sample()])
        desk = page.Desk(Writer(str(place / "lm"), 2), Thumbs(place / "i"))
        served = {
            "i": SearchIndex(search.load(place / "i"), desk),
            "notes": SearchIndex(search.load(place / "notes")),
        }
        for one in served.values():
            stack.callback(one.close)
        config = uvicorn.Config(make_app(served), port=0, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.started
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module", name="page")
def opened_page(address):
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.problems = []
        page.on("console", lambda said: page.problems.append(said.text))
        page.on("pageerror", lambda said: page.problems.append(str(said)))
        page.goto(address)
        yield page
        browser.close()


def tab_to(page, label: str) -> None:
    """Presses Tab until a control with this name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if label in page.evaluate("document.activeElement.ariaLabel || ''"):
            return
    raise AssertionError(f"no control named {label!r} is reached by Tab")


def ask(page, query: str) -> None:
    """Types into the search box, as one does."""
    page.fill("#q", query)
    page.keyboard.press("Enter")
    sync_api.expect(page).to_have_title(query)


def test_search_by_keyboard(page):
    sync_api.expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("plank dock documentation")
    page.keyboard.press("Enter")
    sync_api.expect(page).to_have_title("plank dock documentation")
    assert page.locator("ol li").count() == 10
    assert page.locator("mark").count() > 3


def test_a_question_by_keyboard(page):
    page.fill("#q", "plank dock documentation")
    page.locator("#q").press("Tab")  # Search
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    answer = page.get_by_label("Answer", exact=True)
    sync_api.expect(answer).to_be_visible()
    source = answer.get_by_role("link")
    number = source.inner_text().split("]")[0].strip("[")
    source.press("Enter")
    sync_api.expect(page.locator(":target")).to_have_attribute("id", f"found{number}")
    assert page.locator(f"#found{number}").inner_text() in source.inner_text()


def test_written_answers_are_judged_by_keyboard(page):
    written = page.get_by_label("Written answers", exact=True)
    assert written.locator("li").count() >= 1
    page.focus("#q")
    tab_to(page, "Thumbs down for written answer 1")
    page.keyboard.press("Enter")
    page.wait_for_selector("main [role=status]")
    assert "you do not like this answer" in page.locator("main [role=status]").inner_text()
    chosen = written.get_by_role("button", pressed=True)
    assert chosen.get_attribute("aria-label") == "Thumbs down for written answer 1"
    assert page.problems == []


def test_thumbs_up_by_keyboard(page):
    ask(page, "my favourite thing")
    chosen = page.locator("ol li").nth(4)
    name = chosen.locator(".score").inner_text().split(",")[0]
    tab_to(page, chosen.locator("button").get_attribute("aria-label"))
    # One sees where one is.
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("main [role=status]")
    assert "Learned" in page.locator("main [role=status]").inner_text()
    assert page.locator("ol li .score").first.inner_text().startswith(f"{name},")


def test_this_means_that(page):
    page.locator("summary", has_text="Teach").press("Enter")
    page.focus("#source")
    page.keyboard.type("zorblax")
    page.keyboard.press("Tab")
    page.keyboard.type("plank dock")
    page.keyboard.press("Enter")
    page.wait_for_selector("main [role=status]")
    assert "“zorblax” means “plank dock”" in page.locator("main [role=status]").inner_text()
    ask(page, "zorblax")
    assert "plank" in page.locator("ol").inner_text().lower()


def test_markup_in_a_query_stays_text(page):
    ask(page, "<script>document.title='owned'</script> plank")
    assert page.locator("ol li").count() > 0
    assert page.problems == []


def test_filter_by_keyboard(page):
    page.locator("nav a", has_text="notes").press("Enter")
    page.wait_for_url("**/models/notes/")
    page.locator("summary", has_text="Filter").press("Enter")
    page.select_option("select", label="a (1)")
    ask(page, "note")
    assert page.locator("ol li .score").all_inner_texts()[0].startswith("n2,")
    assert page.locator("ol li").count() == 1
    page.goto(page.url.partition("?")[0])


@pytest.fixture
def folder(tmp_path):
    """A folder as people have them, with a file that is broken and one that is no document."""
    (tmp_path / "mine" / "sub").mkdir(parents=True)
    (tmp_path / "mine" / "garden.txt").write_text("Roses need sun and water.")
    (tmp_path / "mine" / "sub" / "<b>boats.md").write_text("# Boats\n\nThey float.")
    (tmp_path / "mine" / "cut.pdf").write_bytes(b"%PDF-1.4 and no more")
    (tmp_path / "mine" / ".hidden.txt").write_text("not this one")
    return tmp_path / "mine"


def test_a_folder_is_indexed_with_progress(page, folder):
    page.locator("summary", has_text="Add documents").press("Enter")
    page.set_input_files("#folder", folder)
    said = page.locator("#upload [role=status]")
    assert said.inner_text() == "3 files chosen"
    page.get_by_role("button", name="Index them").press("Enter")
    sync_api.expect(said).to_contain_text("Indexed 2 documents; 4 are in the index now.")
    assert "cut.pdf: is damaged" in said.inner_text()
    sync_api.expect(said).to_be_focused()
    assert page.locator("#count").inner_text() == "Search 4 documents"
    ask(page, "float")
    assert page.locator("ol li .score").first.inner_text().startswith("sub/<b>boats.md")
    assert page.problems == []


def test_files_are_dropped(page):
    page.goto(page.url.partition("?")[0])
    page.locator("summary", has_text="Add documents").click()
    drop = """(target) => {
      const data = new DataTransfer();
      data.items.add(new File(["Zebras have stripes."], "zebra.txt"));
      target.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    page.locator("#drop").evaluate(drop)
    said = page.locator("#upload [role=status]")
    sync_api.expect(said).to_have_text("1 file chosen")
    page.get_by_role("button", name="Index them").click()
    sync_api.expect(said).to_contain_text("Indexed 1 documents; 5 are")
    page.locator("#drop").evaluate(drop)  # its id is taken now, and it is not to be replaced
    page.get_by_role("button", name="Index them").click()
    sync_api.expect(said).to_contain_text("Nothing was added: id 'zebra.txt' is already")
    ask(page, "stripes")
    assert page.locator("ol li .score").first.inner_text().startswith("zebra.txt,")


def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    heights = [b.bounding_box()["height"] for b in page.locator("button:visible").all()]
    assert min(heights) >= 36
    assert page.problems == []
