"""The service: jobs over HTTP (OGC API - Processes), a durable queue, results as STAC, COG and tiles."""
