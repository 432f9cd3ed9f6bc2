"""SQL of the annotator: one function per question, the open transaction always first."""
