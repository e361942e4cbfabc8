"""Programs of others against the service: OGC, STAC and OpenAPI clients."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import QUICK, geotiff

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_owslib_executes(client):
    processes = pytest.importorskip("owslib.ogcapi.processes")
    api = processes.Processes(f"{client.base_url}/")
    assert "generate" in [process["id"] for process in api.processes()]
    assert "prompt" in api.process("generate")["inputs"]
    result = api.execute("generate", inputs=QUICK)["result"]
    assert result["properties"]["synthetic"] is True


def test_pystac_reads_the_catalogue_from_the_folder_and_over_http(client):
    pystac = pytest.importorskip("pystac")
    job = client.post("/processes/generate/execution", json={"inputs": QUICK}).json()["id"]
    root = client.service.folder.root
    for address in (str(root / "catalog.json"), f"{client.base_url}/catalog.json"):
        catalogue = pystac.Catalog.from_file(address)
        item = catalogue.get_item(job)
        assert item is not None
        item.make_asset_hrefs_absolute()
        href = item.assets["image"].href
        if href.startswith("http"):
            assert client.get(href).status_code == 200
        else:
            assert Path(href).is_file()
    assert pystac.Item.from_file(f"{client.base_url}/jobs/{job}/results").id == job


def test_pystac_client_opens_it(client):
    pystac_client = pytest.importorskip("pystac_client")
    client.post("/processes/generate/execution", json={"inputs": QUICK})
    with pytest.warns(pystac_client.warnings.NoConformsTo):
        catalogue = pystac_client.Client.open(f"{client.base_url}/catalog.json")
    with pytest.warns(pystac_client.warnings.FallbackToPystac):
        items = list(catalogue.get_items())
    assert items
    assert all(item.properties["synthetic"] for item in items)


def test_rio_tiler_reads_a_result_over_http(client):
    """In a process of its own: GDAL keeps Python's lock while it waits for some answers."""
    code = (
        "import json, sys; from rio_tiler.io import Reader; reader = Reader(sys.argv[1]);"
        "shape = reader.preview(indexes=(1, 2, 3)).array.shape;"
        "print(json.dumps([reader.get_geographic_bounds('epsg:4326'), shape]))"
    )
    item = client.post("/processes/generate/execution", json={"inputs": QUICK}).json()
    words = [sys.executable, "-c", code, item["assets"]["image"]["href"]]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=600)
    bounds, shape = json.loads(done.stdout)
    assert bounds == pytest.approx(item["bbox"], abs=1e-3)
    assert shape == [3, 64, 64]


def test_items_and_inputs_keep_to_their_schemas(client, tmp_path):
    """What the description says of the inputs accepts what is accepted."""
    jsonschema = pytest.importorskip("jsonschema")
    sent = client.send_file(geotiff(tmp_path / "a.tif")).json()
    given = {
        "generate": QUICK,
        "upscale": {
            "frames": [f"upload:{sent['id']}@2020-05"],
            "factor": 2,
            "guidance": {"text": 1, "metadata": 2},
        },
        "inpaint": {"image": f"upload:{sent['id']}", "mask": {"type": "Polygon", "coordinates": []}},
    }
    for name, inputs in given.items():
        described = client.get(f"/processes/{name}").json()["inputs"]
        for field, value in inputs.items():
            jsonschema.validate(value, described[field]["schema"])
        needed = [field for field, about in described.items() if about["minOccurs"]]
        assert set(needed) <= set(inputs)


def call_with_nonsense(client, most: int) -> int:
    """Answers of 500 and more to what schemathesis makes of the OpenAPI document."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    calls = 0
    for operation in schema.get_all_operations():
        endpoint = operation.ok()
        if endpoint.path.endswith("/events"):
            continue

        @given(case=endpoint.as_strategy())
        @settings(
            max_examples=most,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def call(case):
            nonlocal calls
            calls += 1
            answer = case.call(base_url=str(client.base_url), timeout=300)
            assert answer.status_code < 500, answer.text

        call()
    return calls


def test_nonsense_makes_no_fault(client):
    assert call_with_nonsense(client, 5) > 60


@pytest.mark.slow
def test_much_nonsense_makes_no_fault(client):
    assert call_with_nonsense(client, 100) > 1000
