"""Which genes a run is over: all that are approved, or the list that its plan has left of it."""

# Both speak of a row `run`, and are pasted into statements that have one.

# Its genes. A list is asked for nothing: its plan dropped what was withdrawn, and what is withdrawn
# later stays in it.
GENES = """
    SELECT gene.hgnc_id FROM gene WHERE run.all_genes AND gene.status = 'approved'
    UNION ALL
    SELECT run_gene.hgnc_id FROM run_gene WHERE run_gene.run_id = run.id
"""
# Whether a gene `g` of a slice is one of them. For all genes that is each: a slice holds what was
# approved when it was cut, and a run over all counts every slice as a whole.
HAS_GENE = """(run.all_genes OR EXISTS (
    SELECT FROM run_gene WHERE run_gene.run_id = run.id AND run_gene.hgnc_id = g.hgnc_id))"""
