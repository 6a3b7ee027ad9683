"""Label whole folders and buckets of photos offline, with the service's own engine, on one machine or on many.

__main__.py  the command; optional.py: Ray, which may be missing
job.py       one run: what is left to do, how far it is, what came of it
listing.py   inputs → an ordered list of pieces, cut into shards
photos.py    pieces → pixels or the reason why not (Ray tasks); tables.py: Parquet tables of photos
labeller.py  pixels → answers (Ray actors, one engine each)
run.py       joins the two with Ray Data and hands out each shard that is complete; cluster.py: sessions, workers
output.py    the output folder: one Parquet file a shard, and what is finished already
places.py    paths and buckets
"""
