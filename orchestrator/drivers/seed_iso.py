"""ISO 9660 images for answer files, by pycdlib."""

from __future__ import annotations

import io
from collections.abc import Mapping


class IsoSeedWriter:
    """The SeedWriter port. Joliet carries the names Windows reads, Rock Ridge those Linux reads."""

    def write(self, label: str, files: Mapping[str, bytes]) -> bytes:
        import pycdlib  # here: only what makes a machine pays for it

        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
        try:
            for index, (name, content) in enumerate(sorted(files.items())):
                iso.add_fp(
                    io.BytesIO(content),
                    len(content),
                    f"/FILE{index}.;1",
                    rr_name=name,
                    joliet_path=f"/{name}",
                )
            out = io.BytesIO()
            iso.write_fp(out)
        finally:
            iso.close()
        return out.getvalue()
