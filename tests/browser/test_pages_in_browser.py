"""The pages in a real browser: slider, drivers, roll back, keyboard, phone, dark mode, and no serious accessibility finding."""

import re
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_site import TOKEN, Site
from loop_setup import MLFLOW_WARNS
from playwright.sync_api import Locator, Page, Request, Route, expect

from ml.registry import alias_version, open_registry
from serving.dashboard.race_data import race_data
from serving.replay import replay

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)
RACE = "2024_03"
DEBOUNCE_MS = 120
"""How long the slider rests before a lap is asked for, as in app.js."""
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE: dict[str, Any] = {
    "viewport": {"width": 375, "height": 812},
    "color_scheme": "dark",
    "has_touch": True,
    "reduced_motion": "reduce",
}
PAGES = ("/", "/seasons/2024", f"/races/{RACE}?lap=20", "/models", "/features", "/docs")


def order(page: Page) -> list[str]:
    """driver_ids of the tower, from the top."""
    return [str(link.get_attribute("data-driver")) for link in page.locator("a.driver").all()]


def lap_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["lap"][0]


def expect_lap(page: Page, lap: int) -> None:
    """Wait until the page shows the lap."""
    expect(page.locator("#order-title .count")).to_have_text(f"after lap {lap}" if lap else "at lights out")
    expect(page.locator("#moment")).not_to_have_attribute("aria-busy", "true")


def predicted(page: Page, lap: int) -> list[str]:
    """driver_ids as POST /v1/predict orders them."""
    answer = page.request.post("/v1/predict", data={"race_id": RACE, "lap": lap})
    assert answer.ok, answer.text()
    return [driver["driver_id"] for driver in answer.json()["drivers"]]


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus, as who has no mouse does."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    pytest.fail(f"Tab does not reach {wanted}")


def hold_first(page: Page) -> list[Route]:
    """Let the first request for a lap wait until it is continued; the list has it once it came, and no other."""
    held: list[Route] = []

    def meet(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/*fragment=moment*", meet)
    return held


@pytest.mark.parametrize("context", [DESKTOP, PHONE], ids=["desktop-light", "phone-dark"], indirect=True)
@pytest.mark.parametrize("address", PAGES)
def test_every_page_fits_and_has_no_serious_accessibility_finding(page: Page, address: str) -> None:
    page.goto(address)
    if "races/" in address:
        page.locator("a.driver").nth(1).click()
        expect(page.locator(".panel")).to_be_visible()
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
    expect(page.locator("h1")).to_have_count(1)
    found = Axe().run(page).response["violations"]
    serious = [
        f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:160]} {one['nodes'][0].get('failureSummary', '')[:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("context", [DESKTOP, PHONE], ids=["light", "dark"], indirect=True)
def test_the_page_follows_the_colour_scheme(page: Page) -> None:
    page.goto("/")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
    assert (red + green + blue < 200) == dark


def test_moving_the_slider_shows_each_lap_and_keeps_focus_and_address(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=20")
    assert order(page) == predicted(page, 20)
    slider = page.get_by_label("Lap", exact=True)
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect_lap(page, 21)
    assert lap_of(page.url) == "21"
    assert order(page) == predicted(page, 21)
    expect(slider).to_be_focused()
    expect(page.locator("#lap-now b")).to_have_text("21")
    expect(page.locator("main > .said")).to_contain_text("Lap 21")
    page.keyboard.press("Home")
    expect_lap(page, 0)
    assert order(page) == predicted(page, 0)
    page.get_by_label("One lap on").click()
    expect_lap(page, 1)
    page.goto(page.url)
    expect_lap(page, 1)


def test_only_the_last_of_many_quick_moves_is_asked_for(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=5")
    asked: list[str] = []

    def note(request: Request) -> None:
        if "fragment=moment" in request.url:
            asked.append(lap_of(request.url))

    page.on("request", note)
    page.get_by_label("Lap", exact=True).focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    expect_lap(page, 11)
    assert asked[-1] in ("11", "12"), "lap 12 is prepared ahead"
    assert len(asked) <= 3


def test_one_lap_is_asked_for_at_a_time_and_the_page_says_that_it_works(page: Page) -> None:
    """The service computes abandoned questions too: laps wanted while one is under way are skipped but for the last."""
    page.goto(f"/races/{RACE}?lap=5")
    held, asked = hold_first(page), []
    page.on("request", lambda request: asked.append(lap_of(request.url)) if "fragment=moment" in request.url else None)
    further, working = page.get_by_label("One lap on"), page.locator("form.laps")
    further.click()
    expect(working).to_have_class("laps busy")
    for _ in range(3):
        further.click()
        page.wait_for_timeout(2 * DEBOUNCE_MS)
    assert asked == ["6"]
    expect(page.locator("#lap-now b")).to_have_text("9")
    held[0].continue_()
    expect_lap(page, 9)
    assert lap_of(page.url) == "9"
    assert asked[:2] == ["6", "9"]
    expect(working).to_have_class("laps")


def test_a_driver_opened_while_a_lap_is_on_its_way_is_open_in_it(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=5")
    held = hold_first(page)
    with page.expect_request("**/*fragment=moment*"):
        page.get_by_label("One lap on").click()
    driver = page.locator("a.driver").nth(1)
    name = driver.get_attribute("data-driver")
    driver.click()
    expect(page.locator(".panel")).to_be_visible()
    held[0].continue_()
    expect_lap(page, 6)
    expect(page.locator(".panel h3")).to_contain_text("as known after lap 6")
    expect(page.locator(".car.open a.driver")).to_have_attribute("data-driver", str(name))


def test_what_failed_is_marked_like_what_passed(page: Page) -> None:
    page.goto("/models")
    page.locator("details summary").first.click()
    shown = page.locator(".checks .status")
    expect(shown.first).to_be_visible()
    styles = shown.evaluate_all("all => all.map(one => getComputedStyle(one)).map(style => style.fontSize + style.paddingLeft)")
    assert len(set(styles)) == 1
    assert "failed" in shown.all_inner_texts()


def test_a_driver_opens_and_closes_by_click_and_by_key(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=12")
    second, third = page.locator("a.driver").nth(1), page.locator("a.driver").nth(2)
    second.click()
    panel = page.locator(".panel")
    expect(panel).to_be_visible()
    assert "driver_elo" in panel.locator("th[scope=row]").all_text_contents()
    assert set(panel.locator(".status").all_inner_texts()) <= {"FRESH", "STALE", "MISSING"}
    expect(second).to_have_attribute("aria-expanded", "true")
    assert f"driver={second.get_attribute('data-driver')}" in page.url
    third.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".car.open a.driver")).to_have_attribute("data-driver", str(third.get_attribute("data-driver")))
    expect(panel).to_have_count(1)
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    expect(third).to_be_focused()
    assert "driver=" not in page.url


def test_an_open_driver_stays_open_while_the_lap_changes(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=12")
    driver = page.locator("a.driver").first
    name = driver.get_attribute("data-driver")
    driver.click()
    expect(page.locator(".panel h3")).to_contain_text("as known after lap 12")
    page.get_by_label("One lap on").click()
    expect(page.locator(".panel h3")).to_contain_text("as known after lap 13")
    expect(page.locator(".car.open a.driver")).to_have_attribute("data-driver", str(name))


def test_traces_are_drawn(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=12")
    first = page.locator(".traces img").first
    first.scroll_into_view_if_needed()
    assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


@pytest.mark.parametrize("context", [{"java_script_enabled": False}], indirect=True)
def test_without_javascript_the_slider_is_a_form_and_drivers_are_links(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=20")
    page.get_by_label("Lap", exact=True).fill("9")
    page.get_by_role("button", name="Show this lap").click()
    assert lap_of(page.url) == "9"
    expect(page.locator("#order-title .count")).to_have_text("after lap 9")
    page.locator("a.driver").first.click()
    expect(page.locator(".panel h3")).to_contain_text("as known after lap 9")
    page.goto("/models")
    expect(page.get_by_text("curl -X POST")).to_be_visible()
    expect(page.get_by_label("Token")).not_to_be_visible()


def test_everything_can_be_reached_and_left_by_keyboard(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=20")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    expect(page.get_by_text("Skip to content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.goto(f"/races/{RACE}?lap=20")
    reached: list[str] = []
    describe = """() => {
        const one = document.activeElement, box = one.getBoundingClientRect(), style = getComputedStyle(one);
        const seen = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
        return [one.id || one.dataset.driver || one.className || one.textContent.trim(), seen, style.outlineStyle !== "none"];
    }"""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break  # out of the page again, so there is no trap
        name, seen, outlined = page.evaluate(describe)
        assert seen, f"{name} has the focus but cannot be seen"
        assert outlined, f"{name} has the focus but does not show it"
        reached.append(name)
    else:
        pytest.fail(f"the keyboard does not get out of the page: {reached[-5:]}")
    assert "lap" in reached
    assert [name for name in reached if name in order(page)] == order(page)


def test_an_unknown_race_is_said_in_words(page: Page) -> None:
    page.goto("/races/2024_99")
    expect(page.locator(".error-text")).to_contain_text("2024_99")
    page.complaints.clear()  # type: ignore[attr-defined]  # the browser notes the 404 itself


def test_a_lap_that_fails_is_said_and_the_page_stays(page: Page) -> None:
    page.goto(f"/races/{RACE}?lap=20")
    page.route(
        "**/*fragment=moment*", lambda route: route.fulfill(status=503, body='<p class="error-text">the store is away</p>')
    )
    page.get_by_label("One lap on").click()
    expect(page.locator("main > .said")).to_have_text("Lap 21 could not be shown: the store is away")
    expect(page.locator("a.driver")).to_have_count(20)
    page.complaints.clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", ["1", "2"], ids=["another than the champion", "the champion"])
def test_a_replay_is_followed_lap_by_lap_as_it_predicts(page: Page, site: Site, version: str) -> None:
    """By keyboard, and whichever model answers otherwise."""
    last = race_data(site.settings, RACE).last_lap
    page.goto(f"/races/{RACE}?lap=3")
    served, follow, said = predicted(page, last - 1), page.get_by_role("button", name="Follow live"), page.locator("main > .said")
    tab_to(page, follow)
    page.keyboard.press("Enter")
    expect(said).to_contain_text("Waiting")
    seen: dict[int, Any] = {}
    go_on = threading.Event()

    def heard(lap: int, _last: int, prediction: Any) -> None:
        seen[lap] = prediction
        if lap == last - 1:
            go_on.wait(60)

    how = {"from_lap": last - 2, "speed": 0, "version": version, "on_lap": heard}
    thread = threading.Thread(target=replay, args=(site.settings, RACE), kwargs=how)
    thread.start()
    try:
        expect_lap(page, last - 1)
        assert order(page) == [driver.driver_id for driver in seen[last - 1].drivers]
        assert (order(page) == served) == (version == "2"), "the models differ, or this test shows nothing"
        with_model = f"replayed with {seen[last - 1].model.name} version {version}"
        expect(page.locator(".notice").first).to_contain_text(with_model)
        expect(follow).to_have_attribute("aria-pressed", "true")
    finally:
        go_on.set()
        thread.join(60)
    expect_lap(page, last)
    expect(said).to_have_text(re.compile(rf"^The replay is over\. Lap {last}, {with_model}: .+ is predicted to win\.$"))
    expect(follow).to_have_attribute("aria-pressed", "false")
    assert order(page) == [driver.driver_id for driver in seen[last].drivers]
    driver = page.locator("a.driver").first
    tab_to(page, driver)
    page.keyboard.press("Enter")
    expect(page.locator(".panel")).to_contain_text("Predicted 1st; taken alone")
    twin = page.request.get(str(page.locator("#twin").get_attribute("href"))).json()
    assert [car["driver_id"] for car in twin["cars"]] == order(page)
    assert twin["model"]["version"] == version
    page.reload()
    expect(said).to_contain_text(f"Lap {last}, {with_model}")
    page.get_by_role("link", name="by the model that answers now").click()
    expect(said).to_contain_text("version 2")
    expect(said).not_to_contain_text("replayed")


def test_laps_of_ones_own_choice_are_the_services(page: Page, site: Site) -> None:
    run = replay(site.settings, RACE, speed=0, from_lap=4, to_lap=6, version="1").run
    page.goto(f"/races/{RACE}?lap=5&replay={run}")
    expect(page.locator(".notice").first).to_contain_text("version 1")
    page.get_by_label("One lap on").click()
    expect_lap(page, 6)
    assert order(page) == predicted(page, 6)
    expect(page.locator("main > .said")).to_contain_text("version 2")
    assert "replay=" not in page.url


def test_rolling_back_by_keyboard_asks_for_the_token(page: Page, site: Site) -> None:
    """Last: it changes the champion of the home that all tests share."""
    page.goto("/models")
    before = alias_version(open_registry(site.settings), "champion")
    assert before is not None
    token = page.get_by_label("Token")
    tab_to(page, token)
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    said = page.locator(".rollback .said")
    expect(said).to_contain_text("Not rolled back")
    assert alias_version(open_registry(site.settings), "champion") == before
    page.complaints.clear()  # type: ignore[attr-defined]  # the browser notes the 401 itself
    token.press("ControlOrMeta+a")
    page.keyboard.type(TOKEN)
    tab_to(page, page.get_by_role("button", name=f"Roll back version {before}"))
    page.keyboard.press("Enter")
    expect(said).to_contain_text("Rolled back")
    expect(token).to_have_value("")
    assert alias_version(open_registry(site.settings), "champion") is None
    page.reload()
    expect(page.get_by_text("There is no champion to roll back.")).to_be_visible()
    assert "token" not in page.url
