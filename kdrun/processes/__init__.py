"""Clean processes, forked from a server that has imported everything: for jobs of a sweep and for stages of a job."""
