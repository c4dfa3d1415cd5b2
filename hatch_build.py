"""Make the long description from the README: an index has none of the files that its links name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_IMAGE = re.compile(r"!\[[^\]]*\]\((?!https?://)[^)]*\)\n*")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://)[^)]*\)")


class LongDescription(MetadataHookInterface):
    """Sets `readme`, without the images and links into this repository, which has no public address yet."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add it to the metadata of the distribution."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = _LINK.sub(r"\1", _IMAGE.sub("", text))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
