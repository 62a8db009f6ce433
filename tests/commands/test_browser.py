"""The search page in headless Chromium, by keyboard alone."""

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

from sparse_jax import search  # noqa: E402
from sparse_jax.commands.serve import make_app, page  # noqa: E402
from sparse_jax.commands.serve.index import SearchIndex  # noqa: E402

CONFIG = search.Config(num_features=1 << 17, dim=16, cold_steps=10, cold_batch=64)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of the sample, on a free port."""
    place = tmp_path_factory.mktemp("browser") / "i"
    with search.fit(page.sample(), config=CONFIG) as made:
        made.save(place)
    with search.load(place) as index:
        config = uvicorn.Config(make_app(SearchIndex(index)), port=0, log_level="warning")
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
    page.wait_for_function("wanted => document.title === wanted", arg=query)


def test_search_by_keyboard(page):
    page.wait_for_function("document.activeElement.id === 'q'")
    page.keyboard.type("plank dock documentation")
    page.keyboard.press("Enter")
    page.wait_for_function("document.title === 'plank dock documentation'")
    assert page.locator("ol li").count() == 10
    assert page.locator("mark").count() > 3


def test_thumbs_up_by_keyboard(page):
    ask(page, "my favourite thing")
    chosen = page.locator("ol li").nth(4)
    name = chosen.locator(".score").inner_text().split(",")[0]
    tab_to(page, chosen.locator("button").get_attribute("aria-label"))
    # One sees where one is.
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=status]")
    assert "Learned" in page.locator("[role=status]").inner_text()
    assert page.locator("ol li .score").first.inner_text().startswith(f"{name},")


def test_this_means_that(page):
    page.focus("#source")
    page.keyboard.type("zorblax")
    page.keyboard.press("Tab")
    page.keyboard.type("plank dock")
    page.keyboard.press("Enter")
    page.wait_for_function("document.body.innerText.includes('zorblax')")
    assert "“zorblax” means “plank dock”" in page.locator("[role=status]").inner_text()
    ask(page, "zorblax")
    assert "plank" in page.locator("ol").inner_text().lower()


def test_markup_in_a_query_stays_text(page):
    ask(page, "<script>document.title='owned'</script> plank")
    assert page.locator("ol li").count() > 0
    assert page.problems == []
