"""What requests and answers of the JSON API look like; shown, with examples, by the OpenAPI page."""
