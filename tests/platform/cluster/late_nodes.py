"""A provider of nodes for Ray's autoscaler, as a cloud is: they are of this machine, and come when a test lets them."""

import os
import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

SIGN = "RECALLFRONT_TEST_NODES_MAY_COME"  # names the file without which no node comes


class LateNodes(FakeMultiNodeProvider):
    """To be named as `module` of a provider of type `external`."""

    def create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        while not Path(os.environ[SIGN]).exists():
            time.sleep(0.1)
        super().create_node_with_resources_and_labels(*arguments)  # type: ignore[no-untyped-call]
