"""One of everything that an address may name."""

from tests.builders import build_release
from tests.integration.gateway.desk import PKD1, Desk
from tests.integration.gateway.letters import keep, letter

Names = dict[str, object]


async def one_of_everything(desk: Desk) -> Names:
    """Makes it, of a desk with genes; returns what to put into the paths of the routes."""
    run_id = await desk.start(sources=["hpo"], all=True)
    async with desk.database.begin("annotator") as tx:
        release_id = await build_release(tx, "hpo")
    (letter_id,) = await keep(desk, letter())
    panel = await desk.client.post("/api/panels", json={"name": "kidney", "genes": [PKD1]})
    return {
        "gene": PKD1,
        "name": "hpo",
        "source": "hpo",
        "namespace": "genes",
        "run_id": run_id,
        "release_id": release_id,
        "letter_id": letter_id,
        "panel_id": panel.json()["data"]["id"],
        "version": 1,
        "other": 1,
    }
