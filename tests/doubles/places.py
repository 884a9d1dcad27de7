"""Workers that say which node they are on."""

import time


def here(folder):
    """Return a worker of a trial that answers the id of its node, once as many workers as it is asked for are there."""
    import ray

    context = ray.get_runtime_context()
    (folder / f"at-{context.get_worker_id()}").touch()

    def work(workers):
        # The first that is there would do all the work.
        while len(list(folder.glob("at-*"))) < workers:
            time.sleep(0.05)
        return context.get_node_id()

    return work
