"""Rejection-sampling fine-tuning: answers of a model to questions with a known answer, judged, and the right ones kept as data.

    sample   questions -> k answers each          another engine may do this step
    verify   answers -> verdicts                  by the answer (mathematics) or by tests (code, in the sandbox)
    keep     verdicts -> conversations to learn   with phase 1's data among them

JSON lines stand between the steps. `dots train` learns what comes out, as it learns any conversations.
"""
