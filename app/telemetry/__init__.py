"""What is told of requests: log lines, metrics and traces. Knows no service and no web framework.

record.py   what is remembered of one request, as a context variable that anybody may note in
observe.py  the outermost layer: opens the record, and hands it on when the request has ended
logs.py     its log line; the form of all lines
metrics.py  Prometheus; gauges are asked for at each scrape
load.py     how near the service is to its end, in percent
tracing.py  OpenTelemetry
"""
