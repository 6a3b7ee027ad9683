"""Photos → pixels, in processes of their own: a bounded pool, our side of one process, and its side."""
