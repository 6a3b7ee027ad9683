"""Label whole folders and buckets of photos offline, with the service's own engine, on one machine or on many.

listing.py   inputs → an ordered list of pieces, cut into shards
photos.py    pieces → pixels or the reason why not (Ray tasks)
labeller.py  pixels → answers (Ray actors, one engine each)
run.py       joins the two with Ray Data and hands out each shard that is complete
output.py    the output folder: one Parquet file a shard, and what is finished already
places.py    paths and buckets
"""
