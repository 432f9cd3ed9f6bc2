"""A run over the whole catalogue, from the order to its last fact."""

from tests.integration.annotator.desk import Desk


async def test_all_sources_over_the_whole_catalogue(desk: Desk) -> None:
    run_id = await desk.order(["hgnc", "hpo", "ensembl"])
    await desk.work()
    for row in await desk.rows("SELECT * FROM run"):
        print(row)
    for row in await desk.rows("SELECT * FROM run_source"):
        print(row)
    for row in await desk.rows("SELECT source, kind, state, count(*) FROM batch GROUP BY 1,2,3"):
        print(row)
    for row in await desk.rows(
        "SELECT source, kind, state, problem FROM batch where problem is not null limit 5"
    ):
        print(row)
