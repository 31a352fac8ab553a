"""Keeps what the libraries say to developers off the user's terminal; what she has set herself stays."""

from __future__ import annotations

import os
import sys
import warnings


def hide_remarks() -> None:
    """Hides advice and warnings of the libraries; to be called before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no line for each try to reach the hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.filterwarnings(
            "ignore", module=r"(torch|transformers|timm|accelerate|jsonargparse|huggingface_hub|tqdm)\b"
        )


def hide_bars() -> None:
    """Hides the progress bars of transformers, which flash by for local files; a download should keep them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
