import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from affine import Affine

from diffusionsat import ConfigError, MetadataError, RasterError
from diffusionsat.cli.main import run

pytest.importorskip("pystac_client", reason="the extra [stac] is not installed")
from diffusionsat.data.search import least_cloudy

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PLACE = (9.0, 46.95)
ITEMS = [  # identifier, day, cloud cover
    ("cloudy", "2023-07-01", 80),
    ("older", "2023-07-04", 3),
    ("best", "2023-07-14", 3),
    ("unknown", "2023-07-20", None),
    ("outside", "2024-01-01", 0),
    ("elsewhere", "2023-07-15", 0),
]


class Answers(SimpleHTTPRequestHandler):
    """A STAC API of one collection over a folder of images, two items a page."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if urlsplit(self.path).path == "/":
            links = [
                {"rel": "self", "href": self.server.url},
                {
                    "rel": "search",
                    "href": f"{self.server.url}search",
                    "method": "POST",
                    "type": "application/geo+json",
                },
            ]
            self.answer(
                {
                    "type": "Catalog",
                    "id": "ours",
                    "stac_version": "1.0.0",
                    "description": "ours",
                    "links": links,
                    "conformsTo": [
                        "https://api.stacspec.org/v1.0.0/core",
                        "https://api.stacspec.org/v1.0.0/item-search",
                    ],
                }
            )
        else:
            super().do_GET()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        first, last = (day[:10] for day in asked["datetime"].split("/"))
        lon, lat = asked["intersects"]["coordinates"]
        found = [
            item
            for item in self.server.items
            if first <= item["properties"]["datetime"][:10] <= last
            and item["bbox"][0] <= lon <= item["bbox"][2]
            and item["bbox"][1] <= lat <= item["bbox"][3]
        ]
        start = asked.get("token", 0)
        links = []
        if start + 2 < len(found):
            body = asked | {"token": start + 2}
            links = [{"rel": "next", "href": f"{self.server.url}search", "method": "POST", "body": body}]
        self.answer({"type": "FeatureCollection", "features": found[start : start + 2], "links": links})

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/geo+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def image(folder, name, metres, seed):
    side = 1200 // metres
    values = np.random.Generator(np.random.Philox(seed)).integers(1, 9000, (1, side, side)).astype(np.uint16)
    place = Affine(metres, 0, 499_400, 0, -metres, 5_200_020)
    with rasterio.open(
        folder / name,
        "w",
        driver="GTiff",
        count=1,
        height=side,
        width=side,
        dtype="uint16",
        crs="EPSG:32632",
        transform=place,
        tiled=True,
        blockxsize=32,
        blockysize=32,
    ) as file:
        file.write(values)
    return values[0]


def item(folder, url, name, day, cloud):
    west = 8.99 if name != "elsewhere" else 20.0
    box = [west, 46.94, west + 0.02, 46.96]
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], [box[0], box[1]]]
    bands = {"red": ("B04", 10), "green": ("B03", 10), "blue": ("B02", 10), "swir16": ("B11", 20)}
    assets = {"thumbnail": {"href": f"{url}none.jpg", "roles": ["thumbnail"]}}
    for number, (common, (band, metres)) in enumerate(bands.items()):
        file = f"{name}_{band}.tif"
        image(folder, file, metres, number + 10 * sum(map(ord, name)))
        assets[common] = {
            "href": (folder / file).as_uri()
            if common == "blue"
            else f"{url}{file}"
            if common == "red"
            else f"./{file}",
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": common, "common_name": common}],
            "raster:bands": [{"scale": 1e-4, "offset": -0.1, "nodata": 0}],
        }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "bbox": box,
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": f"{day}T10:30:00Z", "constellation": "sentinel-2", "gsd": 10}
        | ({} if cloud is None else {"eo:cloud_cover": cloud}),
        "links": [{"rel": "self", "href": f"{url}{name}.json"}],
        "assets": assets,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture
def catalogue(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers, directory=folder))
    server.url, server.asked = f"http://127.0.0.1:{server.server_port}/", []
    server.items = [item(folder, server.url, *one) for one in ITEMS]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_least_cloudy_image_is_found_and_of_equals_the_latest(catalogue, folder):
    frame = least_cloudy(catalogue.url, PLACE, "2023-07/2023-07-31", collections=["sentinel-2-l2a"])
    assert catalogue.asked[0]["datetime"] == "2023-07-01T00:00:00Z/2023-07-31T23:59:59Z"
    assert catalogue.asked[0]["collections"] == ["sentinel-2-l2a"]
    assert len(catalogue.asked) == 2  # of its pages
    assert (frame.raster.name, frame.metadata.date, frame.metadata.cloud_cover) == ("best", "2023-07-14", 3)
    assert frame.common == ("red", "green", "blue", "swir16")
    assert frame.raster.bands == ("B04", "B03", "B02", "B11")
    assert frame.coarseness == (1, 1, 1, 2)
    assert (frame.sensor, frame.scaling.gain, frame.scaling.offset) == ("sentinel-2", 1e-4, -0.1)
    assert (frame.metadata.lon, frame.metadata.lat) == pytest.approx((9.0, 46.948), abs=0.002)
    assert frame.metadata.gsd == pytest.approx(10, rel=1e-3)
    values, valid = frame.raster.read(range(120), range(120))
    assert valid.all()
    for band, own, step in zip(frame.raster.bands, values, frame.coarseness, strict=True):
        with rasterio.open(folder / f"best_{band}.tif") as file:
            assert np.array_equal(own[::step, ::step], file.read(1))


def test_a_part_around_the_place_and_some_bands(catalogue):
    whole = least_cloudy(catalogue.url, PLACE, "2023/2023", bands=("red", "swir16")).raster
    part = least_cloudy(catalogue.url, PLACE, "2023/2023", bands=("red", "swir16"), size=(20, 10)).raster
    assert part.bands == ("B04", "B11")
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", [PLACE[0]], [PLACE[1]])
    column, row = ~whole.transform @ (x[0], y[0])
    left, top = ~whole.transform @ (part.transform @ (0, 0))
    assert (left, top) == pytest.approx((column - 10, row - 5), abs=1.5)
    assert left % 2 == pytest.approx(top % 2) == pytest.approx(0, abs=1e-6)
    rows, columns = range(round(top), round(top) + part.height), range(round(left), round(left) + part.width)
    assert np.array_equal(part.read(range(part.height), range(part.width))[0], whole.read(rows, columns)[0])
    with pytest.raises(RasterError, match="lie outside"):
        least_cloudy(catalogue.url, (8.991, 46.959), "2023/2023", size=(4, 4))


def test_the_command_sharpens_a_part_of_what_is_found(catalogue, steered_folder, tmp_path, capsys):
    place, dates = ",".join(map(str, PLACE)), "2023-07/2023-07"
    words = ["--stac", catalogue.url, "--lnglat", place, "--search", dates, "--size", "24x16"]
    model = ["--model", str(steered_folder), "--device", "cpu", "--precision", "fp32", "--steps", "1"]
    out = tmp_path / "out.tif"
    code = run(["upscale", *words, "--collection", "sentinel-2-l2a", "--factor", "2", *model, "-o", str(out)])
    line = json.loads(capsys.readouterr().out)
    assert code == 0
    assert catalogue.asked[0]["collections"] == ["sentinel-2-l2a"]
    assert (line["date"], line["cloud_cover"]) == ("2023-07-14", 3)
    with rasterio.open(out) as file:
        assert (file.width, file.height) == (48, 36)  # no pixel of the 20 m band is cut
        assert file.descriptions == ("B04", "B03", "B02")
        assert file.bounds.left <= 5e5 <= file.bounds.right
        assert np.diff(file.bounds[::2]) == 240


def test_what_is_not_found(catalogue):
    with pytest.raises(RasterError, match=r"no image with bands that are known of 9\.0,46\.95 .* \(0 item"):
        least_cloudy(catalogue.url, PLACE, "2019/2020")
    with pytest.raises(RasterError, match=r"no image of red, nir .* \(4 item"):
        least_cloudy(catalogue.url, PLACE, "2023-07/2023-07", bands=("red", "nir"))
    with pytest.raises(RasterError, match="cannot be searched"):
        least_cloudy(catalogue.url + "nothing", PLACE, "2023/2024")
    with pytest.raises(ConfigError, match="two dates A/B"):
        least_cloudy(catalogue.url, PLACE, "2023")
    with pytest.raises(MetadataError, match="lat is 99"):
        least_cloudy(catalogue.url, (9, 99), "2023/2024")
    for asset in catalogue.items[2]["assets"].values():
        asset["href"] = catalogue.url + "gone.tif"
    with pytest.raises(RasterError, match=r"gone\.tif cannot be read as a raster"):
        least_cloudy(catalogue.url, PLACE, "2023-07/2023-07")
