"""Write the table of published dictionaries from the directory in an installed sae-lens.

python benchmarks/releases.py benchmarks/.venvs/saelens/lib/python3.11/site-packages/sae_lens 6.54.12 2026-11-29
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import yaml

TABLE = Path(__file__).parents[1] / "saes" / "published" / "releases.json.gz"


def releases(directory: dict[str, dict]) -> dict[str, dict]:
    """Names and numbers alone."""
    found = {}
    for name, release in directory.items():
        overrides = release.get("config_overrides") or {}
        found[name] = {
            "repo": release["repo_id"],
            "model": release["model"],
            "loader": release.get("conversion_func") or "sae_lens",
            "saes": {str(sae["id"]): str(sae["path"]) for sae in release["saes"]},
        }
        factors = {
            str(sae["id"]): sae["norm_scaling_factor"] for sae in release["saes"] if "norm_scaling_factor" in sae
        }
        if factors:
            found[name]["factors"] = factors
        for figure in ("l0", "variance_explained"):
            if said := {str(sae["id"]): sae[figure] for sae in release["saes"] if figure in sae}:
                found[name][figure] = said
        if "normalize_activations" in overrides:
            found[name]["normalise"] = overrides["normalize_activations"]
    return found


def main() -> None:
    package, version, date = sys.argv[1:]
    directory = yaml.safe_load(Path(package, "pretrained_saes.yaml").read_text(encoding="utf-8"))
    content = {"source": f"sae-lens {version}", "date": date, "releases": releases(directory)}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    TABLE.write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{TABLE}: {TABLE.stat().st_size:,} bytes, {len(content['releases'])} releases")


if __name__ == "__main__":
    main()
