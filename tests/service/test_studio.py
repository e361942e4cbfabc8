"""The studio in a real headless Chromium, on a service that answers with canned pictures."""

import hashlib
import json
import math
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import click
import fake_api
import numpy as np
import pytest
import rasterio
from PIL import Image

selenium = pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "Chromium is missing: apt-get install chromium chromium-driver"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", "--hide-scrollbars", "--window-size=1280,800")  # fmt: skip
PATIENCE_S = 300
PLACE = (7.44, 46.95)
RED, GREEN, BLUE, YELLOW = (tuple(int(v) for v in c) for c in fake_api.QUARTERS.reshape(4, 3))
WITH_A_NAME = {"button", "checkbox", "combobox", "listbox", "radio", "slider", "spinbutton", "tab", "textbox"}

in_browser = [
    pytest.mark.slow,
    pytest.mark.allow_hosts(["127.0.0.1", "::1"]),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),  # images without a place
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]


class Page:
    """The studio in a browser, and the service that it talks to."""

    def __init__(self, driver: webdriver.Chrome, service: fake_api.Service, address: str) -> None:
        self.driver, self.service, self.address = driver, service, address
        self.allowed = r"$^"  # errors of the console that a test provokes

    def open(self, query: str = "?map=flat") -> None:
        self.driver.get("about:blank")
        self.driver.get(self.address + query)
        self.wait(lambda: self.run("return document.documentElement.dataset.ready"))

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], object]):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError(f"Waited in vain; the page says: {self.says!r}")

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def click_map(self, x: float, y: float) -> None:
        """Click at pixels of the map's canvas, counted from its upper left corner."""
        box = self.run("return document.querySelector('#map canvas').getBoundingClientRect().toJSON()")
        for kind in ("mousePressed", "mouseReleased"):
            event = {"type": kind, "x": box["x"] + x, "y": box["y"] + y, "button": "left", "clickCount": 1}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    @property
    def says(self) -> str:
        return self.find("#says").text + self.find("#wrong").text

    def finished(self) -> dict:
        """The job that the address names, when its image is on the map."""
        laid = "return document.querySelector('#done').offsetParent && Boolean(studio.result.images.image)"
        self.wait(lambda: self.run(laid))
        return self.service.jobs[self.run("return location.hash")[len("#job=") :]]

    def pixel(self, place: tuple[float, float]) -> tuple[int, ...]:
        return self.pixels([place])[0]

    def pixels(self, places: list[tuple[float, float]]) -> list[tuple[int, ...]]:
        """Colours on the screen at places, found by Web Mercator from the map's centre and zoom."""
        lon, lat, zoom, x, y, width, height = self.run(
            "const {map} = studio, gl = map.gl;"
            "const box = document.querySelector('#map canvas').getBoundingClientRect();"
            "return [...map.centre, gl ? gl.getZoom() : map.zoom, box.x, box.y, box.width, box.height];"
        )
        picture = Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        scale, world = picture.width / self.run("return innerWidth"), 512 * 2**zoom
        (cx, cy), found = mercator(lon, lat), []
        for px, py in (mercator(*place) for place in places):
            at = x + width / 2 + (px - cx) * world, y + height / 2 + (py - cy) * world
            found.append(picture.getpixel((round(at[0] * scale), round(at[1] * scale))))
        return found


def mercator(lon: float, lat: float) -> tuple[float, float]:
    return lon / 360, -math.asinh(math.tan(math.radians(lat))) / (2 * math.pi)


def inside(corners: list, across: float, down: float) -> tuple[float, float]:
    """The place at shares of an image's width and height."""
    tl, tr, br, bl = np.array(corners)
    top, bottom = tl + (tr - tl) * across, bl + (br - bl) * across
    return tuple(top + (bottom - top) * down)


def alike(colour: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(colour, other, strict=True)) <= 3


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Iterator[Page]:
    """A page on a fresh service; at the end nothing was complained of, and nothing asked for elsewhere."""
    service = fake_api.Service(step_s=0.05)
    server = fake_api.serve(service)
    address = f"http://127.0.0.1:{server.server_port}/"
    page = Page(driver, service, address)
    driver.get("about:blank")
    for log in ("browser", "performance"):  # of the page before, be it the browser's own
        driver.get_log(log)
    yield page
    complaints = [e["message"] for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    events = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
    driver.get("about:blank")
    server.shutdown()
    server.server_close()
    assert [c for c in complaints if not re.search(page.allowed, c)] == []
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    ours = (address, "blob:" + address, "data:", "about:")
    assert [url for url in asked if not url.startswith(ours)] == []
    assert any(url.startswith(address) for url in asked)


class TestMake:
    pytestmark = in_browser

    @pytest.mark.parametrize("query", ["", "?map=flat"], ids=["maplibre", "without-webgl"])
    def test_a_click_and_the_image_lies_on_its_own_ground(self, page, query):
        page.open(query)
        page.type("#prompt", "a river")
        page.run("studio.map.fly([7.44, 46.95], 6)")
        width, height = page.run(
            "const c = document.querySelector('#map canvas'); return [c.clientWidth, c.clientHeight]"
        )
        page.click_map(width / 2, height / 2)
        page.wait(lambda: page.find("#place").get_attribute("value"))
        page.type("#width", "48")
        page.type("#height", "32")
        page.click("#make .main")
        job = page.finished()
        asked = job["inputs"]["metadata"]
        assert (asked["lon"], asked["lat"]) == pytest.approx(PLACE, abs=0.01)
        assert job["inputs"]["size"] == [48, 32]
        corners = page.service.results(job["jobID"])["properties"]["corners"]
        expected = {
            (0.02, 0.02): RED, (0.98, 0.02): GREEN, (0.02, 0.98): BLUE, (0.98, 0.98): YELLOW,
            (0.48, 0.48): RED, (0.52, 0.52): YELLOW,
            (-0.02, 0.5): None, (1.02, 0.5): None, (0.5, 1.03): None,
        }  # fmt: skip
        seen = page.pixels([inside(corners, *shares) for shares in expected])
        found = [next((c for c in (RED, GREEN, BLUE, YELLOW) if alike(c, colour)), None) for colour in seen]
        assert found == list(expected.values())
        assert "SYNTHETIC" in page.find("#map").text
        assert "SYNTHETIC" in page.find("#warning").text

    def test_swipe_and_opacity_show_what_lies_below(self, page):
        page.open()
        page.type("#place", "7.44, 46.95")
        page.click("#make .main")
        corners = page.service.results(page.finished()["jobID"])["properties"]["corners"]
        set_range = (
            "const f = document.querySelector(arguments[0]);"
            "f.value = arguments[1]; f.dispatchEvent(new Event('input'))"
        )
        page.run(set_range, "#swipe", 60)
        page.wait(lambda: not alike(page.pixel(inside(corners, 0.3, 0.3)), RED))
        assert alike(page.pixel(inside(corners, 0.8, 0.2)), GREEN)
        page.run(set_range, "#opacity", 0)
        page.wait(lambda: not alike(page.pixel(inside(corners, 0.8, 0.2)), GREEN))

    def test_twelve_months_are_a_strip_of_one_seed_and_none_is_made_twice(self, page):
        page.open()
        page.type("#place", "7.44, 46.95")
        page.type("#seed", "11")
        page.click("#make .main")
        page.finished()
        page.click("#months")
        page.wait(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#strip img")) == 12)
        inputs = [job["inputs"] for job in page.service.jobs.values()]
        assert sorted(i["metadata"]["date"] for i in inputs) == [f"2019-{m:02d}" for m in range(1, 13)]
        assert {i["seed"] for i in inputs} == {11}
        page.click("#strip li:first-child button")
        january = page.finished()
        assert january["inputs"]["metadata"]["date"] == "2019-01"
        befores = [o.text for o in page.driver.find_elements(By.CSS_SELECTOR, "#before option")]
        assert befores == ["with Generate, 2019-07", "with the map"]
        # A reload shows the same job and the same list.
        page.driver.refresh()
        page.wait(lambda: page.run("return document.documentElement.dataset.ready"))
        assert page.finished() is january
        page.click("#tab-jobs")
        assert len(page.driver.find_elements(By.CSS_SELECTOR, "#jobs li")) == 12

    def test_with_the_keyboard_alone(self, page):
        page.open()

        def tab_to(name: str) -> None:
            for _ in range(60):
                if page.run("return document.activeElement.id || document.activeElement.className") == name:
                    return
                page.driver.switch_to.active_element.send_keys(Keys.TAB)
            raise AssertionError(f"Tab never came to {name}.")

        tab_to("prompt")
        page.driver.switch_to.active_element.send_keys("forest")
        tab_to("place")
        page.driver.switch_to.active_element.send_keys("Switzerland")
        tab_to("main")
        page.driver.switch_to.active_element.send_keys(Keys.SPACE)
        metadata = page.finished()["inputs"]["metadata"]
        assert (metadata["lon"], metadata["lat"]) == pytest.approx((8.2, 46.8), abs=0.2)
        assert "cloud_cover" not in metadata

    def test_everything_unknown_is_sent_as_nothing_and_lies_nowhere(self, page):
        page.open()
        for box in page.driver.find_elements(By.CSS_SELECTOR, "[data-for]"):
            if not box.is_selected():
                box.click()
        page.click("#make .main")
        assert page.finished()["inputs"]["metadata"] == {}
        page.wait(page.find("#loose").is_displayed)

    def test_everything_has_a_name_for_screen_readers(self, page):
        page.open("")
        page.type("#place", "7.44, 46.95")
        page.click("#make .main")
        page.finished()
        for tab in ("make", "change", "jobs"):
            page.click(f"#tab-{tab}")
            nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
            controls = [n for n in nodes if not n["ignored"] and n["role"]["value"] in WITH_A_NAME]
            assert len(controls) > 10
            assert [n for n in controls if not n["name"]["value"].strip()] == []

    def test_on_a_phone_the_image_comes_into_view(self, page):
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            page.open()
            page.type("#place", "7.44, 46.95")
            page.run("document.querySelector('#make .main').scrollIntoView()")
            page.click("#make .main")
            page.finished()
            top, bottom, wide = page.run(
                "const {top, bottom} = document.querySelector('#map').getBoundingClientRect();"
                "return [top, bottom, document.documentElement.scrollWidth];"
            )
            assert (top >= 0, bottom <= 844, wide) == (True, True, 390)
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


class TestChange:
    pytestmark = in_browser

    @pytest.fixture
    def field(self, tmp_path: Path) -> Path:
        path = tmp_path / "field.tif"
        path.write_bytes(
            fake_api.geotiff(fake_api.quarters(48, 40), **fake_api.grid_at(8.5, 47.4, 10, 48, 40))
        )
        return path

    def upload(self, page: Page, *paths: Path) -> None:
        page.click("#tab-change")
        page.find("#files").send_keys("\n".join(map(str, paths)))
        page.wait(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#uploads li")) == len(paths))
        page.wait(lambda: page.run("return Boolean(studio.result.under)"))  # its picture

    def test_upload_sharpen_download(self, page, field, tmp_path):
        page.open()
        self.upload(page, field)
        page.type("#factor", "3")
        page.type("#samples", "2")
        page.click("#run")
        job = page.finished()
        assert job["inputs"] == {
            "prompt": "", "seed": 7, "samples": 2, "frames": ["upload:0000000000000001"], "factor": 3,
            "consistency": "soft",
        }  # fmt: skip
        layers = [
            i.get_attribute("value") for i in page.driver.find_elements(By.CSS_SELECTOR, "#layers input")
        ]
        assert layers == ["image", "measured", "invented", "spread", "support"]
        assert page.find("#remarks").text == "field.tif: numbers are taken for reflectance"
        corners = page.service.results(job["jobID"])["properties"]["corners"]
        page.click("#layers [value=invented]")
        page.wait(lambda: alike(page.pixel(inside(corners, 0.2, 0.2)), tuple(255 - v for v in RED)))
        page.run(
            "const f = document.querySelector('#swipe'); f.value = 50; f.dispatchEvent(new Event('input'))"
        )
        page.wait(lambda: alike(page.pixel(inside(corners, 0.2, 0.2)), RED))  # the input
        where = {"behavior": "allow", "downloadPath": str(tmp_path)}
        page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
        page.click("#downloads li:first-child a")
        made = tmp_path / f"synthetic-{job['jobID']}-image.tif"
        page.wait(made.exists)
        with rasterio.open(field) as old, rasterio.open(made) as new:
            assert (new.width, new.height) == (144, 120)
            assert new.bounds == pytest.approx(old.bounds)
            assert new.crs == old.crs
        if shutil.which("gdalinfo"):
            told = subprocess.run(["gdalinfo", "-json", made], capture_output=True, text=True, check=True)
            assert json.loads(told.stdout)["size"] == [144, 120]

    def test_a_hole_drawn_by_clicks_is_filled_where_it_was_drawn(self, page, field):
        page.open()
        self.upload(page, field)
        page.click("[name=task][value=inpaint]")
        corners = page.service.uploads["0000000000000001"]["corners"]
        wanted = [inside(corners, a, d) for a, d in [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]]
        for position in wanted:
            page.click_map(*page.run("return studio.map.project(arguments[0])", position))
        page.wait(lambda: len(page.find("#hole").get_attribute("value").split("\n")) == 4)
        page.click("#run")
        job = page.finished()
        ((ring,),) = job["inputs"]["mask"]["coordinates"]
        assert ring[0] == ring[-1]
        np.testing.assert_allclose(ring[:4], wanted, atol=2e-5)
        filled = np.array(Image.open(BytesIO(page.service.files[job["jobID"]]["image.png"])))
        magenta = (filled == [255, 0, 255]).all(2)
        assert magenta[11:29, 13:35].all()
        assert not magenta[:9].any()
        assert not magenta[:, :11].any()
        assert magenta.mean() == pytest.approx(0.25, abs=0.03)

    def test_a_hole_typed_into_an_image_without_a_place_is_a_mask_of_its_pixels(self, page, tmp_path):
        page.open()
        path = tmp_path / "plain.png"
        path.write_bytes(fake_api.png(fake_api.quarters(40, 30)))
        self.upload(page, path)
        page.wait(page.find("#loose").is_displayed)
        page.click("[name=task][value=inpaint]")
        page.type("#hole", "10, 5\n20, 5\n20, 15\n10, 15")
        page.click("#run")
        job = page.finished()
        filled = np.array(Image.open(BytesIO(page.service.files[job["jobID"]]["image.png"])))
        magenta = (filled == [255, 0, 255]).all(2)
        assert magenta[5:15, 10:20].all()
        assert magenta.sum() == 100

    def test_predict_gives_each_image_its_date_and_the_marked_one_comes_first(self, page, field, tmp_path):
        page.open()
        other = tmp_path / "other.tif"
        shutil.copy(field, other)
        self.upload(page, field, other)
        page.click("[name=task][value=predict]")
        for date, text in zip(
            page.driver.find_elements(By.CSS_SELECTOR, "#uploads .date"), ("2019", "2021"), strict=True
        ):
            date.send_keys(text)
        page.run("window.before = studio.result.under")
        page.click("#uploads li:last-child [type=radio]")
        page.wait(lambda: page.run("return studio.result.under !== window.before"))
        page.type("#on", "2020-07")
        page.click("#run")
        inputs = page.finished()["inputs"]
        assert inputs["frames"] == ["upload:0000000000000002@2021", "upload:0000000000000001@2019"]
        assert inputs["on"] == "2020-07"

    def test_a_result_can_be_worked_on(self, page):
        page.open()
        page.type("#place", "7.44, 46.95")
        page.click("#make .main")
        first = page.finished()["jobID"]
        page.click("#further")
        page.wait(lambda: page.run("return Boolean(studio.result.under)"))
        page.click("[name=task][value=edit]")
        page.click("#run")
        page.wait(lambda: "Say what is to be seen" in page.says)
        page.type("#words", "forest")
        page.service.uploads[first] = {"bytes": page.service.files[first]["image.tif"]}
        page.click("#run")
        assert page.finished()["inputs"]["image"] == f"job:{first}"


class TestErrors:
    pytestmark = in_browser

    def begin(self, page: Page, prompt: str) -> None:
        page.type("#prompt", prompt)
        page.type("#place", "7.44, 46.95")
        page.click("#make .main")

    def test_what_is_missing_or_wrong_is_said_in_words(self, page, tmp_path):
        page.allowed = "422"
        page.open()
        page.click("#make .main")
        page.wait(lambda: "The place is missing" in page.says)
        self.begin(page, "fail")
        page.wait(lambda: "There is no model for this" in page.find("#wrong").text)
        page.wait(lambda: not page.find("#map .synthetic").is_displayed())  # in the next frame
        page.click("details summary")
        page.type("#steps", "999")
        self.begin(page, "a river")
        page.wait(lambda: "steps is 999; this service takes at most 200" in page.says)
        text = tmp_path / "words.tif"
        text.write_text("no image")
        page.click("#tab-change")
        page.find("#files").send_keys(str(text))
        page.wait(lambda: "words.tif is no image" in page.says)
        text.write_bytes(bytes(2**21))
        page.find("#files").send_keys(str(text))
        page.wait(lambda: "words.tif: it has 2 MB; this service takes at most 1 MB." in page.says)

    def test_a_job_is_cancelled(self, page):
        page.open()
        self.begin(page, "slow")
        page.wait(lambda: page.find("#map .synthetic").is_displayed())  # the coarse picture
        page.click("#cancel")
        page.wait(lambda: "Cancelled" in page.says)
        assert [job["status"] for job in page.service.jobs.values()] == ["dismissed"]

    def test_a_full_queue_is_waited_for(self, page):
        page.allowed = "429"
        page.open()
        page.service.full = 10**6
        self.begin(page, "a river")
        page.wait(lambda: "The queue is full" in page.says)
        page.service.full = 0
        page.finished()

    def test_a_token_is_asked_for_once(self, page):
        page.allowed = "401"
        page.service.token = "secret"
        page.driver.get(page.address + "?map=flat")
        page.wait(lambda: page.find("#token").is_displayed())
        page.type("#token-value", "wrong")
        page.click("#token .main")
        page.wait(
            lambda: (
                page.find("#token").is_displayed() and not page.find("#token-value").get_attribute("value")
            )
        )
        page.type("#token-value", "secret")
        page.click("#token .main")
        page.wait(lambda: page.run("return document.documentElement.dataset.ready"))
        self.begin(page, "a river")
        page.finished()


HOLE = {"type": "Polygon", "coordinates": [[[8, 47], [8.1, 47], [8, 47.1], [8, 47]]]}
PLACED = {"lon": -7.5, "lat": 46, "gsd": 10, "date": "2019-07", "cloud_cover": 5}
JOBS = {
    "generate": {
        "prompt": 'it\'s a "river"', "metadata": PLACED, "size": [64, 48], "seed": 3, "steps": 8,
        "guidance": 2.5, "negative": "snow $x",
    },
    "upscale": {
        "frames": ["upload:a@2019", "upload:b"], "factor": 3, "consistency": "soft", "samples": 2, "seed": 1,
    },
    "predict": {"frames": ["upload:a@2019"], "on": "2020-07", "prompt": "", "seed": 1},
    "inpaint": {"image": "upload:a", "references": ["upload:b@2018"], "mask": HOLE, "seed": 1},
    "declouds": {"image": "upload:a", "mask": "upload:m", "seed": 1},
    "edit": {"image": "job:a", "prompt": "forest", "strength": 0.5, "mask": HOLE, "seed": 1},
}  # fmt: skip


class TestRecipes:
    pytestmark = in_browser

    @pytest.mark.parametrize(("process", "inputs"), JOBS.items(), ids=list(JOBS))
    def test_they_are_read_by_the_command_line_and_by_python(self, page, process, inputs):
        from diffusionsat.cli.main import cli

        page.driver.get(page.address + "?map=flat")
        script = """
            const [process, inputs, done] = arguments;
            import(new URL("studio/recipes.js", location)).then(({shell, python}) =>
                done([shell(process, inputs, "compact@1"), python(process, inputs, "compact@1")]));
        """
        shell, python = page.driver.execute_async_script(script, process, inputs)
        program, verb, *words = shlex.split(shell.splitlines()[-1])
        assert (program, verb) == ("diffusionsat", process)
        command = cli.get_command(click.Context(cli), process)
        given = command.make_context(process, words).params
        assert given["seed"] == inputs["seed"]
        assert given["model"] == "compact@1"
        assert given.get("prompt") in (inputs.get("prompt", ""), None)
        for name in ("factor", "consistency", "strength", "steps", "guidance", "negative"):
            if name in inputs:
                assert given[name] == inputs[name]
        if process == "generate":
            assert (given["lnglat"], given["size"], given["cloud"]) == ((-7.5, 46), (64, 48), 5)
        if process == "upscale":
            assert given["sources"] == ("a.tif@2019", "b.tif")
        if isinstance(inputs.get("mask"), dict):
            assert json.loads(shell.splitlines()[1]) == HOLE
            assert given["mask"] == "hole.geojson"
        calls: list = []
        exec(compile(python.replace("from diffusionsat", "#"), "recipe", "exec"), stand_ins(calls))
        [(name, arguments, options)] = calls
        assert (name, options["seed"]) == (process, inputs["seed"])
        assert inputs.get("prompt", "") in (*arguments, options.get("prompt", ""))


def stand_ins(calls: list) -> dict:
    """The names that a recipe uses, which only note what is called."""

    class Saved:
        def save(self, path: str) -> None:
            assert path.endswith(".tif")

    class Sat:
        @classmethod
        def from_pretrained(cls, model: str) -> "Sat":
            assert model == "compact@1"
            return cls()

        def __getattr__(self, name: str):
            return lambda *arguments, **options: calls.append((name, arguments, options)) or Saved()

    return {"DiffusionSat": Sat, "Metadata": dict, "open_frame": lambda path, date: (path, date)}


class TestVendored:
    STUDIO = fake_api.STUDIO

    def test_files_of_others_are_those_that_are_named(self):
        table = (self.STUDIO / "vendor/VENDORED.md").read_text()
        named = dict(re.findall(r"^\| ([\w.-]+) \| [\w./-]+ \| ([0-9a-f]{64}) \|$", table, re.MULTILINE))
        there = {p.name: p for p in (self.STUDIO / "vendor").iterdir() if p.suffix not in (".md", ".txt")}
        assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == named

    def test_the_studio_is_small(self):
        assert sum(p.stat().st_size for p in self.STUDIO.rglob("*") if p.is_file()) < 3_000_000

    def test_nothing_of_ours_names_an_address_outside_or_styles_inline(self):
        for path in [p for p in self.STUDIO.iterdir() if p.is_file()]:
            text = path.read_text()
            assert re.findall(r"https?://(?!www\.w3\.org/2000/svg|github\.com/topojson)[\w.]+", text) == []
            assert not re.search(r"<style|\sstyle=|\son\w+=\"|innerHTML", text), path.name
