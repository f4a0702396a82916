"""Are the probe's verdicts true? Real fine-tunes on handwritten digits, probed first and then run.

    python -m tests.benchmarks.probe_study run [PART OF]    # appends to FOLDER/results-PART.jsonl
    python -m tests.benchmarks.probe_study quiet [PART OF]  # the bounded alarm on 960 safe probes
    python -m tests.benchmarks.probe_study table            # Markdown, as in ../RESULTS.md

FOLDER is $PROBE_STUDY, or `probe-study` in the folder for temporary files. What is there already is
not run again.
"""
