"""A progress bar in your app: python clients/python/examples/progress_bar.py PROMPT [ADAPTER]."""

import sys

from rich.progress import Progress

from wuliart_client import Client, Event, Queued, Step, WuliArtError

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red fox on a white background"
adapters = sys.argv[2:]

try:
    with Client() as client, Progress() as progress:  # $WULIART_TARGET, else 127.0.0.1:50051
        task = progress.add_task("waiting", total=4)

        def show(event: Event) -> None:
            """Called for every event of the stream."""
            if isinstance(event, Queued):
                progress.update(task, description=f"{event.position} before you")
            elif isinstance(event, Step):
                label = f"step {event.step}/{event.total_steps}"
                progress.update(task, completed=event.step, description=label)

        image = client.generate_image(prompt, adapters=adapters, on_event=show)
except WuliArtError as error:
    sys.exit(error.message)
print(f"seed {image.seed}, saved {image.save('outputs')}")
