"""Calls the endpoint with the fal_client package as it comes from the index."""

import sys

import fal_client

app = sys.argv[1] if len(sys.argv) > 1 else "demo/hello"


def show(update: fal_client.Status) -> None:
    if isinstance(update, fal_client.Completed):  # every update carries all lines so far
        for entry in update.logs or []:
            print(f"  log: {entry['message']}")


answer = fal_client.subscribe(app, {"name": "falplan"}, with_logs=True, on_queue_update=show)
print(f"subscribe: {answer}")

answer = fal_client.run(app, {"name": "fal"})
print(f"run: {answer}")
