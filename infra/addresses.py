"""The variables by which services and commands learn where PostgreSQL and Kafka are."""

DATABASE = "annobus"
OWNER_URL = "ANNOBUS_DATABASE_URL"  # The database for its owner, as `annobus migrate` needs it.
DATABASE_URLS = {  # The same database for each role.
    OWNER_URL: "annobus",
    "ANNOTATOR_DATABASE_URL": "annotator",
    "CACHE_DATABASE_URL": "cache",
    "GATEWAY_DATABASE_URL": "gateway",
}
KAFKA_BOOTSTRAP = "ANNOBUS_KAFKA_BOOTSTRAP"
